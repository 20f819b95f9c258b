"""A model card beside every exported model of a study, as the hub wants it: what it is, how good, how fast, its limits.

Every number is read: from the run's record, the folder's mmalib.json, the records of notebook 07, and, for a shipped
backbone, the report beside its weights. What was not measured is said to be so.
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
from mmalib.model.packed import fingerprint
from mmalib.plan import HALVED
from mmalib.records import store
from mmalib.reports import backbones as shipped
from mmalib.reports import combined, tables
from mmalib.reports.figures import LANGUAGE_NAMES, language_name
from mmalib.speed import throughput
from mmalib.use.ner import WINDOW

TEMPLATE = Path(__file__).with_name("card.md")
INTERVALS = "\nLow and high bound the 95% interval of F1, by resampling sentences."
SPEED_UP = "\nSamples of {} subwords. Speed-up: over the dense float baseline in ONNX Runtime, same batch, in turns."
PACKAGES = ("torch", "transformers", "onnxruntime")
METHODS = {
    "baseline": "tuned on English, nothing taken out",
    "heads": "attention heads removed by importance",
    "uniform": "heads and neurons removed alike in every layer",
    "vocabulary": "subwords removed",
    "magnitude": "weights pruned by magnitude",
    "movement": "weights pruned by movement",
    "obs": "weights pruned by second order (Optimal BERT Surgeon)",
    "layers": "layers dropped",
    "distillation": "a smaller model tuned on English",
    "quantization": "a tuned model as a graph",
}
FORMATS = {
    "qdq": "for ONNX Runtime and OpenVINO",
    "qoperator": "the form that DeepSparse runs fast",
    "dynamic": "activations are measured while it runs",
}
LABELLED = {"conll": "CoNLL-2003", "sample": "the generated sample (templates and drawn names)"}
UNLABELLED = {"conll": "CoNLL-2002", "sample": "the generated sample"}


def write_all(home: Path, records: Sequence[dict]) -> list[Path]:
    """Write the card of every exported tagger below home/models that one of these records tells of; their paths."""
    models, written = Path(home) / "models", []
    known = {record["run"]: record for record in records if record["settings"].get("task") != "similarity"}
    for graph in sorted(models.rglob(GRAPH)):
        folder, name = graph.parent, graph.parent.relative_to(models).as_posix()
        about = store.read_json(folder / PROVENANCE)
        record = known.get(about.get("run")) or known.get(folder.name)
        if record and not any(part.startswith(".") for part in name.split("/")):  # those are being written
            whole = combined.whole_of(record, records) if "quantization" in about else None
            before = {**whole["scores"], **whole.get("further", {})} if whole else None
            store.write_atomic(folder / CARD, text(record, about, _speeds(name, records), folder=name, before=before))
            written.append(folder / CARD)
    return written


def text(
    record: dict,
    about: dict,
    speeds: Sequence[dict],
    *,
    folder: str | None = None,
    before: dict | None = None,
    wrong: Mapping[str, Sequence[str]] | None = None,
    here: str = "",
) -> str:
    """The card of one model; `about` is its mmalib.json, `speeds` rows of `throughput`, each with its `machine`.

    `before` are the scores before int8, `wrong` lines on mistakes by language, `here` is a speed on this machine.
    """
    folder = folder or record["run"]
    return TEMPLATE.read_text().format(
        front=_front(record, Path(folder).name, before),
        wrong=_wrong(wrong),
        title=Path(folder).name,
        **_facts(record, about),
        quoted=shlex.quote(folder),
        folder=json.dumps(folder, ensure_ascii=False),
        measured_in=_measured_in(record, about),
        scores=_scores({**record["scores"], **record.get("further", {})}, before or {}),
        speeds=_speed_table(speeds) if speeds or not here else f"Measured with the card: {here}.",
        training="\n".join(_training(record, about)),
        limits="\n".join(_limits(record)),
        record=record,
        commit=record["commit"] or "not known",
        versions=", ".join(f"{name} {record['versions'].get(name, 'not known')}" for name in PACKAGES),
        machine=f"{_cpu(record['machine'])}, GPU: {record['machine'].get('gpu') or 'none'}",
    )


def _front(record: dict, title: str, before: dict | None) -> str:
    """What the hub reads: languages, licence, base model, data, and F1 by language and split, before and after int8."""
    settings, backbone = record["settings"], _backbone(record)
    scores, is_conll = {**record["scores"], **record.get("further", {})}, settings["corpus"] == "conll"
    source = "intfloat/multilingual-e5-small" if backbone in backbones.SHIPPED else backbones.HUB.get(backbone)
    read = ["eriktks/conll2003", *(["eriktks/conll2002"] if _setting(settings, "sees_target_text") else [])]
    results = [
        EvalResult(
            task_type="token-classification",
            dataset_type=corpus.HUB_REPOSITORIES.get(language, "Babelscape/wikineural") if is_conll else "sample",
            dataset_name="CoNLL-2002/2003, WikiNEuRal for further languages" if is_conll else "the generated sample",
            dataset_config=language,
            dataset_split="validation" if split == "dev" else split,
            metric_type="f1",
            metric_name=name,
            metric_value=round(value, 4),
        )
        for language, splits in scores.items()
        for split, one in splits.items()
        for name, value in _named_f1(one, (before or {}).get(language, {}).get(split))
    ]
    about = ModelCardData(
        language=list(dict.fromkeys([*corpus.LANGUAGES, *scores])),
        license="mit" if backbone in backbones.SHIPPED else "apache-2.0",
        library_name="onnx",
        pipeline_tag="token-classification",
        base_model=source,
        datasets=read if is_conll else None,
        tags=["named-entity-recognition", "onnx", "transformers.js", "model-compression", "mmalib"],
        model_name=title,
        eval_results=results or None,
    )
    return about.to_yaml(line_break="\n")


def _named_f1(after: dict, before: dict | None) -> list[tuple[str, float]]:
    if before is None:
        return [("F1", after["f1"])]
    return [("F1 before compression", before["f1"]), ("F1 after compression", after["f1"])]


def _wrong(wrong: Mapping[str, Sequence[str]] | None) -> str:
    if not wrong:
        return "Not counted for this model."
    each = [f"- {language_name(name)}: {line}" for name, lines in wrong.items() for line in lines]
    return "\n".join(["The most frequent mistakes; examples are invented sentences.", "", *each])


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


def _facts(record: dict, about: dict) -> dict[str, str]:
    """What the model is, was made by and weighs."""
    settings, size, of_int8 = record["settings"], record.get("size") or {}, about.get("quantization")
    name = settings.get("combination") or settings.get("graph") or settings.get("setting")
    started = _started(settings)["method"]
    how = METHODS.get(started, started) + (", then int8" if "combination" in settings else "")
    weight = about.get("megabytes", size.get("megabytes"))
    before = f", {of_int8['megabytes_float']:,.2f} MB before int8" if of_int8 else ""
    return {
        "backbone": _backbone(record),
        "method": f"{settings['method']}{f' (`{name}`)' if name else ''}, {how}",
        "taken_out": "; ".join(_taken_out(record, about)) or "nothing",
        "numbers": _int8(of_int8) if of_int8 else "float32",
        "size": f"{'not measured' if weight is None else f'{weight:,.2f} MB'}{before}",
    }


def _taken_out(record: dict, about: dict) -> list[str]:
    """Weights, heads, neurons and subwords that the model has lost, with what was asked for."""
    settings, zeros, losses = record["settings"], record.get("sparsity") or {}, []
    share, int8 = zeros.get("measured", about.get("sparsity")), about.get("quantization", {}).get("sparsity_int8")
    if share:
        asked = f", asked for {zeros['requested']:.1%}" if "requested" in zeros else ""
        rounded = "" if int8 is None else f", {int8:.1%} in int8 with what rounding made zero"
        losses.append(f"{share:.1%} of the weights of the encoder's linear maps are zero{asked}{rounded}")
    if (removed := _setting(settings, "removed")) is not None:
        losses.append(f"{removed:.1%} of the heads and neurons of every layer")
    elif _started(settings)["method"] in ("heads", "uniform"):
        losses.append("heads and neurons: `config.json` tells how many under `pruned`")
    return [*losses, *(["subwords that no training text of the three languages needs"] if _cut(record) else [])]


def _int8(quantization: dict) -> str:
    kind, form, kept = quantization["kind"], quantization["format"], quantization.get("skip")
    parts = [f"int8, {kind}, format `{form}` ({FORMATS[form]}), {quantization['quantized']} linear maps"]
    parts += ["the table of word embeddings as well"] if quantization.get("embeddings") else []
    return "; ".join(parts + ([f"left in float: {', '.join(kept)}"] if kept else []))


def _measured_in(record: dict, about: dict) -> str:
    """The runtime of the scores, and whether it ran this graph."""
    start = f"F1 over entities, measured in {record['settings'].get('runtime', 'PyTorch')} on "
    scored = (record.get("size") or {}).get("megabytes")  # another graph made from the run's has another size
    if "runtime" in record["settings"] and scored in (None, about.get("megabytes", scored)):
        return f"{start}this graph.\n"
    if "quantization" in about:
        return f"{start}the run's own model. This int8 graph was made from it later and was not scored itself.\n"
    close = about.get("parity", {}).get("max_abs_difference")
    parity = "" if close is None else f" The graph's logits differ from PyTorch's by at most {close:.1e}."
    return f"{start}the weights that this graph was exported from.{parity}\n"


def _scores(scores: dict, before: dict) -> str:
    rows = [
        {"language": language_name(language), "split": split}
        | ({"F1 before int8": _shown_f1(before.get(language, {}).get(split))} if before else {})
        | {name: f"{one[key]:.3f}" for name, key in (("F1", "f1"), ("low", "f1_low"), ("high", "f1_high"))}
        | {"sentences": one["sentences"]}
        for language, splits in scores.items()
        for split, one in splits.items()
    ]
    return tables.markdown(pd.DataFrame(rows)) + INTERVALS if rows else "Not measured."


def _shown_f1(scores: dict | None) -> str:
    return f"{scores['f1']:.3f}" if scores else ""


def _speed_table(speeds: Sequence[dict]) -> str:
    """Samples a second and the speed-up in every runtime and batch, or why there are none."""
    if not speeds:
        return "Not measured."
    machines = [f"{_cpu(row['machine'])}, threads: {row['threads']}" for row in speeds]
    shown = throughput.table(speeds).assign(machine=machines)
    shown = shown[["runtime", "batch", "samples/s", "speed-up", "machine", "note"]].astype(str)
    shown = shown.map(lambda cell: " ".join(cell.split()).replace("|", "\\|"))
    lengths = sorted({row["length"] for row in speeds})
    return tables.markdown(shown) + SPEED_UP.format(" or ".join(map(str, lengths)))


def _training(record: dict, about: dict) -> list[str]:
    """Which text and which labels have played a part, and the teacher."""
    settings, seen, more = record["settings"], [], []
    corpus, labelled = settings["corpus"], _at_most(settings["train_sentences"])
    if _setting(settings, "sees_target_text"):
        capped = _at_most(_setting(settings, "unlabelled_sentences"))
        whose = f"{UNLABELLED.get(corpus, corpus)} with the teacher's answers"
        seen.append(f"Spanish and Dutch training sentences of {whose}, {capped} in each language")
    if _cut(record):
        seen.append("Spanish and Dutch training text, for which subwords occur in it and for nothing else")
    if "qat_epochs" in settings:
        how = " under fake quantization" if about.get("quantization", {}).get("kind") == "qat" else ""
        number = _at_most(settings["qat_sentences"])
        more = [f"- Then trained on{how}: epochs: {settings['qat_epochs']}, sentences: {number}"]
    if languages := settings.get("floor_languages"):
        names = ", ".join(LANGUAGE_NAMES.get(language, language) for language in languages)
        more.append(f"- What stays in float was chosen on labelled dev sentences: {names}")
    name = Path(_setting(settings, "teacher") or settings["backbone"]).name
    return [
        f"- Labelled: English training sentences of {LABELLED.get(corpus, corpus)}, {labelled}",
        f"- Unlabelled: {'; '.join(seen) or 'none; no Spanish or Dutch text after pretraining'}",
        *more,
        f"- Teacher: {f'`{name}`, tuned on the same labels' if _setting(settings, 'hardness') else 'none'}",
    ]


def _limits(record: dict) -> list[str]:
    """What not to expect of the model, with its own numbers."""
    settings, test = record["settings"], {k: v["test"]["f1"] for k, v in record["scores"].items() if "test" in v}
    limits = [_pretraining(record)]
    if "en" in test:
        each = [f"{LANGUAGE_NAMES.get(name, name)} {f1:.3f}" for name, f1 in test.items()]
        weaker = [LANGUAGE_NAMES.get(name, name) for name, f1 in test.items() if f1 < test["en"]]
        behind = f" Weaker than in English: {', '.join(weaker)}." if weaker else ""
        limits.append(f"Only English labels were tuned on. Test F1: {', '.join(each)}.{behind}")
    limits.append(
        f"Tuned on windows of {settings['max_length']} subwords; predicts in windows of {WINDOW} that overlap."
    )
    if settings["corpus"] == "sample":
        limits.append("It has learnt from generated text and knows generated text only.")
    limits.append("Not evaluated for bias: whose names it misses more often than others' is not known.")
    return [f"- {one}" for one in limits]


def _pretraining(record: dict) -> str:
    """Where a shipped backbone comes from; nothing is known of another, or of other weights under its name."""
    name, weights = _backbone(record), _started(record["settings"]).get("weights")
    if name not in backbones.SHIPPED or weights != fingerprint(name):
        return f"What the backbone `{name}` was pretrained on, its licence and its limits, its own card tells."
    report = shipped.read()[name]
    taught = f", distilled from it in {report['seconds'] / 60:.0f} minutes" if report["steps"] else ""
    return (
        "The backbone comes from multilingual-e5-small by way of a copy at 4 bits a weight"
        f"{taught}: {report['parameters'] / 1e6:.1f} million weights."
    )


def _started(settings: dict) -> dict:
    """The configuration of the model that a combination starts from; of any other model, its own."""
    return settings.get("start", settings)


def _setting(settings: dict, key: str) -> object:
    return settings.get(key, _started(settings).get(key))


def _backbone(record: dict) -> str:
    return Path(_started(record["settings"])["backbone"]).name


def _cut(record: dict) -> bool:
    """Whether the vocabulary was cut: by the run itself, or on the way to a combination."""
    return record["settings"]["method"] == "vocabulary" or record["settings"].get("combination") in HALVED


def _at_most(number: int | None) -> str:
    return "all of them" if number is None else f"at most {number:,}"


def _cpu(machine: dict) -> str:
    return f"{machine['cpu']}, cores: {machine['cores']}"
