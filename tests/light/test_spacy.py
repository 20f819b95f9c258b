"""The real spaCy: entities by characters, batches, the way to disk and back, what does not fit into tokens."""

import shutil
import subprocess
import sys
from importlib import metadata

import pytest

spacy = pytest.importorskip("spacy")
Doc = pytest.importorskip("spacy.tokens").Doc


@pytest.fixture
def nlp(lookup):
    return piped("es", lookup)


def piped(language, folder):
    if not any(point.name == "mmalib_ner" for point in metadata.entry_points(group="spacy_factories")):
        __import__("mmalib.use.spacy")  # a checkout that is not installed
    nlp = spacy.blank(language)
    nlp.add_pipe("mmalib_ner", config={"model": str(folder), "runtime": "onnxruntime"})
    return nlp


@pytest.mark.parametrize("language", ["xx", "es", "nl", "de"])
@pytest.mark.filterwarnings("ignore:spaCy's tokens leave no room")
def test_every_entity_is_covered(lookup, ner, sentences, language):
    nlp = piped(language, lookup)
    for doc, entities in zip(nlp.pipe(sentences[:200]), ner(sentences[:200]), strict=True):
        for one in entities:  # itself, or what shares a token with it
            assert any(span.start_char < one["end"] and one["start"] < span.end_char for span in doc.ents)
        for span in doc.ents:
            assert any(span.start_char <= one["start"] and one["end"] <= span.end_char for one in entities)


def test_entities_that_fit_are_the_same(nlp, ner, sentences):
    from mmalib.use import spacy as component

    text = next(text for text in sentences if len(ner(text)) > 3 and "\u00a0" not in text)
    doc = nlp.make_doc(text)
    words = [one for one in ner(text) if doc.char_span(one["start"], one["end"]) is not None]
    marked = component._marked(doc, words)
    assert [(e.text, e.label_) for e in marked.ents] == [(one["word"], one["entity_group"]) for one in words]


def test_a_pipe_gives_what_single_calls_give(nlp, sentences):
    def places(doc):
        return [(e.start_char, e.end_char, e.label_) for e in doc.ents]

    with pytest.warns(UserWarning, match="leave no room"):
        single = [places(nlp(text)) for text in sentences[:100]]
        assert [places(doc) for doc in nlp.pipe(sentences[:100], batch_size=7)] == single
    assert sum(map(len, single)) > 100


def test_what_shares_a_token_is_told(nlp):
    from mmalib.use import spacy as component

    doc = Doc(nlp.vocab, words=["Madrid/Gent", "hoy"])
    two = [{"start": 0, "end": 6, "entity_group": "LOC"}, {"start": 7, "end": 11, "entity_group": "ORG"}]
    with pytest.warns(UserWarning, match="no room for 'Madrid/Gent' \\(ORG\\)"):
        marked = component._marked(doc, two)
    assert [(e.text, e.label_) for e in marked.ents] == [("Madrid/Gent", "LOC")]


def test_earlier_entities_are_kept(lookup, ner):
    nlp = piped("es", lookup)
    text = "Angela Merkel besuchte met José Viña Madrid"
    ruler = nlp.add_pipe("entity_ruler", before="mmalib_ner")
    ruler.add_patterns([{"label": "MINE", "pattern": "Madrid"}])
    doc = nlp(text)
    assert [e.text for e in doc.ents if e.label_ == "MINE"] == ["Madrid"]


def test_to_disk_and_back_the_model_comes_along(table, tmp_path):
    from lookup_model import write_model

    folder = write_model(tmp_path / "model", table)
    nlp = piped("nl", folder)
    text = "Angela Merkel besuchte José Viña en São Paulo met Łódź"
    before = [(e.text, e.label_) for e in nlp(text).ents]
    nlp.to_disk(tmp_path / "pipeline")
    shutil.rmtree(folder)
    again = spacy.load(tmp_path / "pipeline")
    assert [(e.text, e.label_) for e in again(text).ents] == before != [] and again.pipe_names == ["mmalib_ner"]
    again.to_disk(tmp_path / "pipeline")  # where it came from
    assert [(e.text, e.label_) for e in spacy.load(tmp_path / "pipeline")(text).ents] == before


def test_entities_in_pieces_are_refused():
    with pytest.raises(ValueError, match="choose an aggregation_strategy other than 'none'"):
        spacy.blank("en").add_pipe("mmalib_ner", config={"aggregation_strategy": "none"})


def test_an_unknown_model_is_one_line(tmp_path):
    nlp = piped("es", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere is neither a folder"):
        nlp("Madrid")


def test_spacy_finds_the_component_by_itself(lookup):
    if not any(point.name == "mmalib_ner" for point in metadata.entry_points(group="spacy_factories")):
        pytest.skip("mmalib is not installed here")
    program = (
        "import spacy; nlp = spacy.blank('es')\n"
        f"nlp.add_pipe('mmalib_ner', config={{'model': {str(lookup)!r}}})\n"
        "print(len(nlp('Angela Merkel besuchte José Viña Madrid').ents))\n"
        "import sys; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
