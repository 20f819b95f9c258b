"""The models that the package carries, made from a study's records and models: int8, small, with card and scores.

A run that left an int8 graph is shipped as that graph; one that left weights becomes a static int8 graph here, with
ranges from English. Either way the word embeddings shrink to a byte each, and F1 is measured anew on what is shipped.
No model is chosen that has seen text of CoNLL-2002, labelled or not.
"""

import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from seqeval.metrics.sequence_labeling import get_entities

from mmalib import runtimes
from mmalib.app import card
from mmalib.data import sample
from mmalib.graph import export, quantize
from mmalib.model import cache, disk
from mmalib.model.evaluate import Predict, scored
from mmalib.plan import of_kind
from mmalib.records import machine, store
from mmalib.reports import combined, tables
from mmalib.studies import quantization
from mmalib.studies.study import Study
from mmalib.studies.training import english
from mmalib.use import shipped
from mmalib.use.ner import NER

DEV = 1000  # English dev sentences that choose the calibration
SHIPPABLE = ("none", combined.OPEN)  # what a model may have read of Spanish and Dutch
MOST = 3  # mistakes in a card, of every language


def run(profile: str, runs: Path, chosen: Mapping[str, str | None], models: Path = shipped.MODELS) -> int:
    """Make every model that is chosen by a run's name, or by the records; 0 when all are there."""
    study = Study.open(profile, runs)
    records = {record["run"]: record for record in study.records()}
    names = {name: asked or best(name, list(records.values())) for name, asked in chosen.items()}
    for run_name in names.values():
        if run_name not in records:
            raise ValueError(f"There is no record of '{run_name}' in {study.home / 'records'}. Name another run.")
        if combined.target_text(records[run_name]["settings"]) not in SHIPPABLE:
            raise ValueError(f"{run_name} has seen text of CoNLL-2002, which no shipped model may. Name another run.")
    for name, run_name in names.items():
        print(f"{name}: {run_name}", flush=True)
        size = _make(study, records[run_name], list(records.values()), models / name)
        cache.write_sums(models, [path for path in models.glob("*/**/*") if path.is_file()])
        print(f"{name}: {size / 1e6:.1f} MB in the package", flush=True)
    return 0


def best(name: str, records: list[dict]) -> str:
    """The run to ship: what notebook 06 calls the best of its int8 graphs, else the best of what was tuned.

    Of the first seed, then, 'faithful' is the best on the unseen languages' dev sets, and 'fast' the smallest that
    keeps enough of that.
    """
    blind = [record for record in records if combined.target_text(record["settings"]) in SHIPPABLE]
    chosen = {row["goal"]: row["run"] for row in combined.goals(blind).to_dict("records")}
    for goal in ("fastest", "smallest") if name == "fast" else (combined.FAITHFUL,):
        if chosen.get(goal) in {record["run"] for record in blind}:
            return chosen[goal]
    tuned = [record for record in of_kind(blind, "baseline", "student") if "varied" not in record["settings"]]
    if not tuned:
        raise ValueError("The study has no tuned model yet: run notebook 01 first, or name a run.")
    first = min(record["settings"]["seed"] for record in tuned)
    tuned = [record for record in tuned if record["settings"]["seed"] == first]
    unseen = {record["run"]: tables.unseen(record, "dev") for record in tuned}
    if name == "faithful":
        return max(unseen, key=unseen.get)
    good = [record for record in tuned if unseen[record["run"]] >= combined.KEEPS * max(unseen.values())]
    return min(good, key=lambda record: (record.get("parameters", float("inf")), record["run"]))["run"]


def _make(study: Study, record: dict, records: list[dict], target: Path) -> int:
    """One model as the package carries it; its bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        source, before = _int8(study, record, records, Path(scratch))
        folder = Path(scratch) / "folder"
        (folder / "onnx").mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, folder)
        quantize.table_in_bytes(source / runtimes.GRAPH, folder / runtimes.QUANTIZED)
        ner = NER.load(folder, runtime="onnxruntime")
        scores, further = (scored(ner.tags, of) for of in (study.corpora, study.corpora.further))
        beyond = {language: {"dev": of["test"]} for language, of in study.corpora.further.items()}
        wrong = mistakes(ner.tags, study.corpora | beyond)
        about = store.read_json(source / disk.PROVENANCE)
        about["quantization"]["embeddings"] = True
        about |= {"run": record["run"], "megabytes": (folder / runtimes.QUANTIZED).stat().st_size / 1e6}
        about |= {"scores": {"before": _f1(before), "after": _f1(scores | further)}, "commit": machine.commit()}
        disk.tell(folder, about)
        speed = f"{shipped.speed(ner):.0f} sentences of about {shipped.WORDS} words a second"
        here = f"Measured with the card, in ONNX Runtime: {speed}, threads: {machine.threads()}, {machine.cpu()}."
        told = record | {"scores": scores, "further": further, "size": {"megabytes": about["megabytes"]}}
        told["settings"] = record["settings"] | {"runtime": "onnxruntime"}
        written = card.text(told, about, here, folder=target.name, before=before, wrong=wrong)
        (folder / export.CARD).write_text(written, "utf-8")
        with cache.complete_folder(target) as fresh:
            for path in (path for path in folder.rglob("*") if path.is_file()):
                _put(path, fresh / path.relative_to(folder))
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def _int8(study: Study, record: dict, records: list[dict], scratch: Path) -> tuple[Path, dict]:
    """The folder of a run's int8 graph, made here where the run left weights; and the dense model's scores."""
    folder = study.folder(record.get("same_as") or record["run"])
    if (folder / runtimes.GRAPH).is_file():
        if not record["size"]["quantized"]:
            raise ValueError(f"{record['run']} is a graph in float. Name one in int8, or the run of its weights.")
        float_record = combined.whole_of(record, records)
        return folder, {**float_record["scores"], **float_record.get("further", {})} if float_record else {}
    model, tokenizer = disk.load(folder)
    about = {"run": record["run"], **{key: record["settings"][key] for key in ("corpus", "seed")}}
    export.export(model, tokenizer, scratch / "float", provenance=about)
    text = english(study, tokenizer, study.profile.calibration_sentences, DEV)
    how = {"calibration_methods": study.profile.calibration_methods}
    calibrated = quantization.calibrated(how, scratch / "float", *text)
    about = {"calibration": calibrated["calibration"]["chosen"]}
    quantize.quantize(scratch / "float", scratch / "int8", kind="static", ranges=calibrated["ranges"], provenance=about)
    return scratch / "int8", {**record["scores"], **record.get("further", {})}


def _put(source: Path, target: Path) -> None:
    """A file as the package carries it. Weights have no repeats: only the codes of single bytes make them smaller."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size < 100_000:
        shutil.copyfile(source, target)
        return
    strategy = zlib.Z_HUFFMAN_ONLY if source.suffix == ".onnx" else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, strategy)  # 16: as gzip writes it
    target.with_name(target.name + ".gz").write_bytes(packer.compress(source.read_bytes()) + packer.flush())


def _f1(scores: Mapping[str, Mapping[str, dict]]) -> dict:
    return {language: {split: one["f1"] for split, one in splits.items()} for language, splits in scores.items()}


def mistakes(predict: Predict, corpora: Mapping[str, Mapping[str, Mapping]]) -> dict[str, list[str]]:
    """A line for each of the most frequent mistakes on the dev set of every language.

    The examples are sentences of the generated sample, since the corpora's own text may not be passed on.
    """
    generated, lines = sample.generate(), {}
    for language, splits in corpora.items():
        dev = splits["dev"]
        pairs = zip(list(dev["tags"]), predict(list(dev["words"])), strict=True)
        counted = Counter(what for gold, predicted in pairs for what, _, _ in of_sentence(gold, predicted))
        examples = _examples(predict, generated[language]["dev"]) if language in generated else {}
        lines[language] = [
            f"{what}: {number:,} times" + (f", as in: {examples[what]}" if what in examples else "")
            for what, number in counted.most_common(MOST)
        ]
    return lines


def of_sentence(gold: list[str], predicted: list[str]) -> Iterator[tuple[str, int, int]]:
    """The mistakes in a sentence, with their first and last word."""
    wanted, entities = set(get_entities(list(gold))), set(get_entities(list(predicted)))
    for kind, first, last in sorted(wanted - entities, key=lambda one: one[1:]):
        others = [other for other in entities if other[1] <= last and first <= other[2]]
        if not others:
            yield f"{kind} not found", first, last
        for other, begin, end in others:
            what = f"{kind} taken for {other}" if other != kind else f"{kind} with other ends"
            yield what, min(first, begin), max(last, end)
    for kind, first, last in sorted(entities - wanted, key=lambda one: one[1:]):
        if not any(begin <= last and first <= end for _, begin, end in wanted):
            yield f"{kind} where there is no name", first, last


def _examples(predict: Predict, sentences: Sequence[tuple[list[str], list[str]]]) -> dict[str, str]:
    """The shortest sentence for every mistake, the words in question in bold."""
    examples: dict[str, str] = {}
    by_length = sorted(sentences, key=lambda sentence: len(sentence[0]))
    for (words, gold), predicted in zip(by_length, predict([words for words, _ in by_length]), strict=True):
        for what, first, last in of_sentence(gold, predicted):
            marked = [*words[:first], f"**{' '.join(words[first : last + 1])}**", *words[last + 1 :]]
            examples.setdefault(what, " ".join(marked))
    return examples
