"""A model card beside every exported model of a study, as the hub wants it: what it is, how good, how fast, its limits.

Every number is read: from the run's record, the folder's mmalib.json and the records of notebooks 07 and 08. What was
not measured is said to be so.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from mmalib.data import corpus
from mmalib.graph.export import CARD, GRAPH
from mmalib.model import backbones
from mmalib.model.disk import PROVENANCE
from mmalib.model.evaluate import TYPES
from mmalib.records import counts, store
from mmalib.reports import combined, tables, words
from mmalib.reports.figures import language_name
from mmalib.speed import throughput
from mmalib.use.ner import WINDOW

TEMPLATE = Path(__file__).with_name("card.md")
PACKAGES = ("torch", "transformers", "onnxruntime")
LABELLED = {"conll": "CoNLL-2003", "sample": "the generated sample (it has learnt generated text and knows no other)"}
UNLABELLED = {"conll": "CoNLL-2002", "sample": "the generated sample"}
MIT = "MIT, as multilingual-e5-small's weights are."
SHIPPED = "from multilingual-e5-small by way of a copy at 4 bits a weight, as mmalib/weights/README.md tells"


def write_all(home: Path, records: Sequence[dict]) -> list[Path]:
    """Write the card of every exported model below home/models that finds names and has one of these records."""
    models, written = Path(home) / "models", []
    known = {r["run"]: r for r in records if r["settings"].get("task", "entities") == "entities"}
    for graph in sorted(models.rglob(GRAPH)):
        folder, name = graph.parent, graph.parent.relative_to(models).as_posix()
        about = store.read_json(folder / PROVENANCE)
        record = known.get(about.get("run"))
        if record and not any(part.startswith(".") for part in name.split("/")):  # those are being written
            float_record = combined.whole_of(record, records) if "quantization" in about else None
            before = {**float_record["scores"], **float_record.get("further", {})} if float_record else None
            speeds = _speed_table(_speeds(name, records))
            store.write_atomic(folder / CARD, text(record, about, speeds, folder=name, before=before))
            written.append(folder / CARD)
    return written


def text(
    record: dict,
    about: dict,
    speeds: str = "Not measured.",
    *,
    folder: str | None = None,
    before: dict | None = None,
    wrong: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The card of one model; `about` is its mmalib.json, `speeds` a table or a line on how fast it is.

    `before` are the scores of the dense model in float, `wrong` lines on mistakes by language.
    """
    folder, own = folder or record["run"], record["settings"]
    start = own.get("start", {})  # the settings of the model that a combination starts from
    settings = start | own
    named = own.get("combination") or own.get("graph") or own.get("setting")
    backbone, int8 = Path((own | start)["backbone"]).name, about.get("quantization")
    scores = [
        (language, split, after, (before or {}).get(language, {}).get(split))
        for language, splits in {**record["scores"], **record.get("further", {})}.items()
        for split, after in splits.items()
    ]
    f1 = {language: after["f1"] for language, split, after, _ in scores if split == "test"}
    weaker = [language_name(language) for language in f1 if f1[language] < f1.get("en", 0)]
    return TEMPLATE.read_text().format(
        front=_front(settings | {"backbone": backbone}, Path(folder).name, scores),
        title=Path(folder).name,
        backbone=f"`{backbone}`, {SHIPPED if backbone in backbones.SHIPPED else 'of which its own card tells'}",
        method=f"{own['method']}{f' (`{named}`)' if named else ''}: {words.words(own, folder)}",
        taken_out="; ".join(_taken_out(settings, record.get("sparsity") or {}, about)) or "nothing",
        numbers=_int8(**int8) if int8 else "float32",
        size=f"{about['megabytes']:,.2f} MB" + (f", {int8['megabytes_float']:,.2f} MB before int8" if int8 else ""),
        quoted=shlex.quote(folder),
        folder=json.dumps(folder, ensure_ascii=False),
        measured_in=_measured_in(settings, record.get("size") or {}, about),
        scores=_scores(scores),
        speeds=speeds,
        wrong=_wrong(wrong, scores),
        training="\n".join(_training(settings)),
        licence=MIT if backbone in backbones.SHIPPED else "Apache-2.0, within the terms of the backbone.",
        weaker=f" Weaker than in English on test: {', '.join(weaker)}." if weaker else "",
        settings=settings,
        window=WINDOW,
        record=record | {"commit": record["commit"] or "not known"},
        versions=", ".join(f"{name} {record['versions'].get(name, 'not known')}" for name in PACKAGES),
        machine=f"{_cpu(record['machine'])}, GPU: {record['machine'].get('gpu') or 'none'}",
    )


def _front(settings: dict, title: str, scores: Sequence[tuple]) -> str:
    """What the hub reads: languages, licence, base model, data, and F1 by language and split, before and after int8."""
    backbone, is_conll = Path(settings["backbone"]).name, settings["corpus"] == "conll"
    shipped, results = backbone in backbones.SHIPPED, []
    for language, split, after, before in scores:
        about = {"task_type": "token-classification", "dataset_config": language, "metric_type": "f1"}
        hub = corpus.HUB_REPOSITORIES.get(language, "Babelscape/wikineural")
        about |= {"dataset_type": hub, "dataset_name": "CoNLL-2002/2003, WikiNEuRal beyond"}
        about |= {} if is_conll else {"dataset_type": "sample", "dataset_name": "the generated sample"}
        about["dataset_split"] = "validation" if split == "dev" else split
        named = {"F1 before compression": before, "F1 after compression": after} if before else {"F1": after}
        results += [EvalResult(**about, metric_name=name, metric_value=round(named[name]["f1"], 4)) for name in named]
    read = ["eriktks/conll2003"] + (["eriktks/conll2002"] if combined.target_text(settings) == combined.READ else [])
    return ModelCardData(
        language=list(dict.fromkeys([*corpus.LANGUAGES, *(language for language, *_ in scores)])),
        license="mit" if shipped else "apache-2.0",
        library_name="onnx",
        pipeline_tag="token-classification",
        base_model="intfloat/multilingual-e5-small" if shipped else backbones.HUB.get(backbone),
        datasets=read if is_conll else None,
        tags=["named-entity-recognition", "onnx", "transformers.js", "model-compression", "mmalib"],
        model_name=title,
        eval_results=results or None,
    ).to_yaml(line_break="\n")


def _taken_out(settings: dict, sparsity: dict, about: dict) -> list[str]:
    """Weights, heads, neurons and subwords that the model has lost, with what was asked for."""
    losses, share = [], sparsity.get("measured", about.get("sparsity"))
    if share:
        asked = f", asked for {sparsity['requested']:.1%}" if "requested" in sparsity else ""
        int8 = about.get("quantization", {}).get("sparsity_int8")
        rounded = "" if int8 is None else f", {int8:.1%} in int8 with what rounding made zero"
        losses.append(f"{share:.1%} of the weights of the encoder's linear maps are zero{asked}{rounded}")
    fewer = settings  # a run of notebook 08 may have lost layers two starts back
    while fewer and "choice" not in fewer:
        fewer = fewer.get("start")
    losses += [f"all layers but {fewer['layers']}"] if fewer else []
    if "removed" in settings:
        losses.append(f"{settings['removed']:.1%} of the heads and neurons of every layer")
    if combined.is_cut(settings):
        losses.append("subwords that no training text of the three languages needs")
    return losses


def _int8(kind: str, format: str, quantized: int, skip: Sequence[str], embeddings: bool, **_) -> str:
    parts = [f"int8, {kind}, format `{format}`, {quantized} linear maps"]
    parts += ["the table of word embeddings as well"] if embeddings else []
    return "; ".join(parts + ([f"left in float: {', '.join(skip)}"] if skip else []))


def _measured_in(settings: dict, size: dict, about: dict) -> str:
    """The runtime of the scores, and whether it ran this graph: one made later from the run's has another size."""
    scored, parity = size.get("megabytes"), about.get("parity", {}).get("max_abs_difference")
    this = "runtime" in settings and scored in (None, about.get("megabytes", scored))
    close = "" if this or parity is None else f" Logits differed by at most {parity:.1e} when it was exported."
    what = "this graph" if this else "the model that this graph was made from; the graph was not scored itself"
    return f"F1 over entities, measured in {settings.get('runtime', 'PyTorch')} on {what}.{close}\n"


def _scores(scores: Sequence[tuple]) -> str:
    rows = [
        {"language": language_name(language), "split": split}
        | ({"F1 before compression": f"{before['f1']:.3f}"} if before else {})
        | {name: f"{after[key]:.3f}" for name, key in (("F1", "f1"), ("low", "f1_low"), ("high", "f1_high"))}
        | {"sentences": after["sentences"]}
        for language, split, after, before in scores
    ]
    shown = pd.DataFrame(rows, dtype=object).fillna("")
    interval = "\nLow and high bound the 95% interval of F1, by resampling sentences."
    return tables.markdown(shown) + interval if rows else "Not measured."


def _speeds(name: str, records: Sequence[dict]) -> list[dict]:
    """The rows of throughput that notebooks 07 and 08 have measured for a folder, each with the machine it ran on."""
    timed = ("trained", "compound speed")
    return [
        {**row, "machine": record["machine"]}
        for record in sorted(records, key=lambda record: record["run"])
        if record["settings"].get("method") in timed
        for row in record["throughput"]
        if row.get("folder", record["settings"].get("folder")) == name
    ]


def _speed_table(speeds: Sequence[dict]) -> str:
    """Samples a second and the speed-up in every runtime and batch, or why there are none."""
    if not speeds:
        return "Not measured."
    machines = [f"{_cpu(row['machine'])}, threads: {row['threads']}" for row in speeds]
    shown = throughput.table(speeds).assign(machine=machines)
    shown = shown[["runtime", "batch", "samples/s", "speed-up", "machine", "note"]].astype(str)
    shown = shown.map(lambda cell: " ".join(cell.split()))
    lengths = " or ".join(map(str, sorted({row["length"] for row in speeds})))
    return (
        f"{tables.markdown(shown)}\nSamples of {lengths} subwords. Speed-up: over the dense float baseline in ONNX "
        "Runtime, same batch, in turns."
    )


def _wrong(wrong: Mapping[str, Sequence[str]] | None, scores: Sequence[tuple]) -> str:
    head = "The most frequent mistakes; examples are invented sentences."
    if wrong is None:
        head = "The types most often wrong, by language; what was mixed up with what is not in a study's records."
        first = {language: (score, split) for language, split, score, _ in reversed(scores) if "counts" in score}  # dev
        wrong = {language: _types(score["counts"], split) for language, (score, split) in reversed(first.items())}
    each = [f"- {language_name(name)}: {line}" for name, lines in wrong.items() for line in lines]
    return "\n".join([head, "", *each]) if each else "Not counted for this model."


def _types(told: str, split: str, most: int = 3) -> list[str]:
    """A line for each of the types with the most mistakes in a score's counts."""
    totals = dict(zip(TYPES, counts.read(told).sum(0), strict=True))  # right, predicted, gold
    missed = {name: (gold - right, predicted - right) for name, (right, predicted, gold) in totals.items()}
    worst = sorted((name for name in TYPES if sum(missed[name])), key=lambda name: -sum(missed[name]))[:most]
    return [
        f"{name} on {split}: {missed[name][0]:,} of {totals[name][counts.GOLD]:,} not found right, "
        f"{missed[name][1]:,} found wrongly"
        for name in worst
    ]


def _training(settings: dict) -> list[str]:
    """Which text and which labels have played a part, and the teacher."""
    corpus, seen, more = settings["corpus"], [], []
    if combined.target_text(settings) == combined.READ:
        whose, number = f"{UNLABELLED[corpus]} with the teacher's answers", _at_most(settings["unlabelled_sentences"])
        seen.append(f"Spanish and Dutch training sentences of {whose}, {number} in each language")
    elif combined.target_text(settings) == combined.OPEN:
        seen.append("open text in other languages than English, of none of these corpora, with the teacher's answers")
    if combined.is_cut(settings):
        seen.append("Spanish and Dutch training text, for which subwords occur in it and for nothing else")
    if "qat_epochs" in settings:
        number = _at_most(settings["qat_sentences"])
        more.append(f"- Then trained on: epochs: {settings['qat_epochs']}, sentences: {number}")
    if languages := settings.get("floor_languages"):
        names = ", ".join(map(language_name, languages))
        more.append(f"- What stays in float was chosen on labelled dev sentences: {names}")
    teacher = Path(settings.get("teacher") or settings["backbone"]).name
    return [
        f"- Labelled: English training sentences of {LABELLED[corpus]}, {_at_most(settings['train_sentences'])}",
        f"- Unlabelled: {'; '.join(seen) or 'none; no Spanish or Dutch text after pretraining'}",
        *more,
        f"- Teacher: {f'`{teacher}`, tuned on the same labels' if settings.get('hardness') else 'none'}",
    ]


def _at_most(number: int | None) -> str:
    return "all of them" if number is None else f"at most {number:,}"


def _cpu(machine: dict) -> str:
    return f"{machine['cpu']}, cores: {machine['cores']}"
