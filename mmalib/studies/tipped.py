"""Which words int8 tips over: every kind of graph beside the float one, word by word, on the test sets; one record."""

from functools import partial
from pathlib import Path

from datasets import DatasetDict

from mmalib.data.corpus import fewer
from mmalib.graph import export
from mmalib.model import disagreement
from mmalib.model.backbones import load_tokenizer
from mmalib.profiles import Profile
from mmalib.records import store
from mmalib.studies import baselines, quantization
from mmalib.studies.quantization import KINDS

GRAPHS = (*KINDS, "longer")  # beside the float graph, in this order


def run_name(backbone: str, corpus: str, seed: int) -> str:
    """The name of the record."""
    return f"05-tipped-{Path(backbone).name}-{corpus}-seed{seed}"


def planned(profile: Profile) -> list[str]:
    """The graphs that are compared with the float one."""
    return [graph for graph in quantization.planned(profile) if graph in GRAPHS]


def config(profile: Profile, backbone: str, corpus: str, seed: int) -> dict:
    """Everything that decides which words are tipped."""
    return {
        **baselines.config(profile, backbone, corpus, seed),
        "notebook": "05",
        "method": "tipped words",
        "graphs": {
            graph: quantization.config(profile, graph, backbone, corpus, seed) for graph in ("float", *planned(profile))
        },
    }


def compare(
    profile: Profile, backbone: str, seed: int, corpora: dict[str, DatasetDict], *, corpus: str, runs: Path
) -> dict:
    """Tag the test sets with every graph, and record where it differs from the float one; done before → read."""
    records, run = store.records_folder(runs, profile.name), run_name(backbone, corpus, seed)
    settings = config(profile, backbone, corpus, seed)
    if record := store.finished(records, run, settings):
        return record
    make = partial(quantization.make, profile, backbone=backbone, seed=seed, corpora=corpora, corpus=corpus, runs=runs)
    tests = {language: fewer(splits["test"], profile.int8_sentences) for language, splits in corpora.items()}
    tags = {}
    for graph in ("float", *planned(profile)):
        make(graph)
        folder = Path(runs) / profile.name / "models" / quantization.run_name(graph, backbone, corpus, seed)
        session, tokenizer = export.session(folder), load_tokenizer(str(folder.resolve()))
        tags[graph] = {
            language: export.predict_tags(session, tokenizer, test["words"], profile.max_length)
            for language, test in tests.items()
        }
    tipped = {
        graph: {
            language: disagreement.between(
                list(test["words"]), list(test["tags"]), tags["float"][language], tags[graph][language]
            )
            for language, test in tests.items()
        }
        for graph in planned(profile)
    }
    store.save(records, run, settings, scores={}, tipped=tipped)
    return store.finished(records, run, settings)
