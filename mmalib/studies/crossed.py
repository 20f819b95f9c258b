"""Notebook 09: pruning × distillation × adapters on two tasks, and what each model takes at work.

    FT   full tuning: the baseline of notebook 01; for similarity, or of a backbone of this notebook, a run of its own
    A    bottleneck adapters in the pretrained backbone, which stays as it is; LoRA beside it, merged after training
    D    every second layer of FT, taught by FT layer by layer; D+A: every second layer of the pretrained backbone,
         which stays as it is, with adapters taught by FT
    P    gates close on the model of the row without P while it trains on, by that row's loss; then it is tuned on

`search` takes heads and neurons out of FT without any training, until it is as much faster as is asked for.
"""

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from transformers import PreTrainedModel

from mmalib.data import pairs
from mmalib.data.corpus import fewer, fewer_to_score, source_of
from mmalib.data.subwords import Encoded, batches, run_of, word_logits
from mmalib.graph import export, quantize, ranges
from mmalib.model import adapters, disk, layerwise
from mmalib.model.backbones import load_model, load_tokenizer
from mmalib.model.finetune import Recipe, finetune
from mmalib.model.task import TASKS, Task
from mmalib.plan import LAYERWISE, LENGTH, LORA, Run
from mmalib.prune import gates, sparsity
from mmalib.prune import search as masks
from mmalib.records import clock, emissions
from mmalib.studies import speed, unstructured
from mmalib.studies.study import Study
from mmalib.studies.training import DENSE, recipe, recipe_after


def tune(study: Study, run: Run, unfinished: Path) -> dict:
    """A row without P."""
    settings, row = run.settings, run.settings["row"]
    task, data = task_of(study, settings)
    tokenizer, has_adapters = load_tokenizer(settings["backbone"]), "A" in row.split("+")
    model = load_model(settings["backbone"], seed=settings["seed"], labels=task.labels)
    with ExitStack() as stack:
        loss = task.loss
        if "D" in row:
            model = model if has_adapters else study.model(run.needs["base"])[0]
            layerwise.every_second_(model)
            loss = stack.enter_context(_taught(study, run, model))
        if has_adapters:
            adapters.add_(model, settings["adapter_width"])
        if row == "LoRA":
            adapters.add_lora_(model, **{name: settings[name] for name in LORA})
        estimate = stack.enter_context(emissions.tracked(settings["country"]))
        rows, dev = _english(task, data, model, tokenizer, settings["max_length"])
        model, history = _fit(settings, model, rows, dev, recipe(settings), unfinished, loss)
    made = {"history": history, "trained_weights": model.num_parameters(only_trainable=True), "sparsity": DENSE}
    if row == "LoRA":
        adapters.merge_lora_(model)
    return _kept(study, run, task, data, model, tokenizer, estimate, **made)


def prune(study: Study, run: Run, unfinished: Path) -> dict:
    """A row with P."""
    settings = run.settings
    task, data = task_of(study, settings)
    model, tokenizer = study.model(run.needs["start"])
    whole, epochs = _units(model), settings["gate_epochs"]
    how = {"multipliers": settings["multiplier_rate"], "warm_up": settings["gate_warm_up"]}
    over = gates.Gates(model, settings["share"], rate=settings["gate_rate"], **how)
    with ExitStack() as stack:
        estimate, loss = stack.enter_context(emissions.tracked(settings["country"])), task.loss
        if "D" in settings["row"]:
            loss = stack.enter_context(_taught(study, run, model))
        rows, dev = _english(task, data, model, tokenizer, settings["max_length"])
        how = recipe_after(settings, epochs, choose_after=0.999 * epochs)  # the last one: earlier ones are less sparse
        model, _ = _fit(settings, model, rows, dev, how, unfinished / "gates", loss, [over])
        zeros = {"requested": settings["share"], "expected": float(over.expected().detach())}
        zeros["measured"] = over.finalise_(model)
        how = recipe_after(settings, settings["gate_after"])
        model, history = _fit(settings, model, rows, dev, how, unfinished / "after", loss)
    made = {"history": history, "trained_weights": model.num_parameters(only_trainable=True), "sparsity": zeros}
    structure = _units(model) | {"whole": {"heads": whole["heads_left"], "neurons": whole["neurons_left"]}}
    return _kept(study, run, task, data, model, tokenizer, estimate, structure=structure, **made)


def _taught(study: Study, run: Run, student: PreTrainedModel) -> AbstractContextManager:
    """The loss of the rows with D: FT teaches layer by layer."""
    teacher, _ = study.model(run.needs["base"])
    return layerwise.loss(student, teacher, **{name: run.settings[name] for name in LAYERWISE})


def sparse(study: Study, run: Run, unfinished: Path) -> dict:
    """FT pruned weight by weight, by magnitude or by second order."""
    settings = run.settings
    task, data = task_of(study, settings)
    model, tokenizer = study.model(run.needs["base"])
    with emissions.tracked(settings["country"]) as estimate:
        rows, dev = _english(task, data, model, tokenizer, settings["max_length"])
        how = {"folder": unfinished, "loss": task.loss}
        model, history, _ = unstructured.gradually(settings, model, rows, dev, **how)
    zeros = {"requested": settings["share"], "measured": sparsity.measured(model)}
    return _kept(study, run, task, data, model, tokenizer, estimate, sparsity=zeros, history=history)


def int8(study: Study, run: Run, unfinished: Path) -> dict:
    """Similarity as a static int8 graph."""
    settings, graph = run.settings, unfinished / "float"
    task, data = task_of(study, settings)
    model, tokenizer = study.model(run.needs["base"])
    with emissions.tracked(settings["country"]) as estimate:
        export.export(model, tokenizer, graph)
        few = fewer(data["en"]["train"], settings["calibration_sentences"])
        few = task.encode(few, tokenizer, settings["max_length"])
        known = ranges.calibrate(graph, [window.ids for window in few.windows], method=settings["calibration"])
        folder, about = study.folder(run.name), study.about(run)
        about = quantize.quantize(graph, folder, kind="static", ranges=known, provenance=about)
    with clock.phase("scoring"):
        scores = task.scores(export.session(folder), data, tokenizer, settings["max_length"])
    made = {"parameters": model.num_parameters(), "megabytes": about["megabytes"], "sparsity": DENSE}
    return {"scores": scores, **made, "emissions": {"training": estimate}}


def search(study: Study, run: Run, unfinished: Path) -> dict:
    """Heads and neurons out of a baseline for the speed-up that is asked for, as measured in ONNX Runtime."""
    settings = run.settings
    task, data = task_of(study, settings | {"cross_sentences": settings["importance_sentences"]})
    model, tokenizer = study.model(run.needs["base"])
    graph, before = speed.dense_graph(study, run.needs["base"]), _encoder(model)

    def measured(candidate: PreTrainedModel) -> float:
        folder = unfinished / "candidate"
        export.export(candidate, tokenizer, folder)
        (row,) = speed.measured(settings, {"candidate": folder}, ["onnxruntime"], graph)
        if "failed" in row:
            raise ValueError(f"{run.name}: a candidate could not be timed: {row['failed']}")
        return row["ratio"]

    with emissions.tracked(settings["country"]) as estimate:
        rows, _ = _english(task, data, model, tokenizer, settings["max_length"])
        weighed = batches(rows, tokenizer, settings["batch_size"])
        speedup = masks.search_(model, masks.importance(model, weighed), settings["times"], measured)
    made = {"structure": _units(model), "speedup": speedup, "sparsity": {"measured": 1 - _encoder(model) / before}}
    return _kept(study, run, task, data, model, tokenizer, estimate, **made)


def use(study: Study, run: Run, unfinished: Path) -> dict:
    """A model's speed beside the dense one's in ONNX Runtime, and what reading test sentences takes."""
    settings = run.settings
    task, data = task_of(study, settings)
    graph = speed.exported(study.folder(settings["folder"]), unfinished)
    folders = {"model": graph, "dense": speed.dense_graph(study, run.needs["base"])}
    rows = speed.measured(settings, folders, ["onnxruntime"], speed.dense_graph(study))
    tokenizer, number = disk.tokenizer_in(graph), -(-settings["used_sentences"] // len(data))
    few = [task.encode(fewer(splits["test"], number), tokenizer, LENGTH) for splits in data.values()]
    read = export.session(graph)
    with clock.phase("reading"), emissions.tracked(settings["country"]) as estimate:
        for text in few:
            word_logits(read, text)
    return {"throughput": rows, "emissions": {"inference": estimate | {"sentences": sum(len(t.words) for t in few)}}}


def task_of(study: Study, settings: dict) -> tuple[Task, dict]:
    """The task of a run, and its data as far as the run uses it: language → split → what the task encodes."""
    task, train, scored = TASKS[settings["task"]], settings.get("cross_sentences"), settings.get("cross_scored")
    if task.name == "similarity":
        return task, pairs.load(source_of(study.profile, study.data), train, scored)
    data = {language: dict(splits) for language, splits in fewer_to_score(study.corpora, scored).items()}
    data["en"]["train"] = fewer(study.corpora["en"]["train"], train)
    return task, data


def _english(task: Task, data: dict, model: PreTrainedModel, tokenizer, max_length: int) -> tuple[list[dict], Encoded]:
    """Rows to train on, and the text that checkpoints are chosen on."""
    train = task.encode(data["en"]["train"], tokenizer, max_length)
    return task.rows(train, model.config.label2id), task.dev(data["en"]["dev"], tokenizer, max_length)


def _encoder(model: PreTrainedModel) -> int:
    return sum(weight.numel() for weight in sparsity.weights(model).values())


def _units(model: PreTrainedModel) -> dict:
    return {"heads_left": disk.heads_left(model), "neurons_left": disk.neurons_left(model)}


def _fit(
    settings: dict, model: PreTrainedModel, rows: list, dev: Encoded, how: Recipe, folder: Path, loss, callbacks=()
) -> tuple[PreTrainedModel, dict]:
    """One training, of the adapters alone where a row has them."""
    if "adapter_width" in settings or settings["row"] == "LoRA":
        adapters.freeze_backbone_(model)
    return finetune(model, rows, dev, how, folder=folder, seed=settings["seed"], loss=loss, callbacks=callbacks)


def _kept(
    study: Study, run: Run, task: Task, data: dict, model: PreTrainedModel, tokenizer, estimate: dict, **parts
) -> dict:
    """Score a model and keep it; the parts of its record."""
    with clock.phase("scoring"):
        scores = task.scores(run_of(model), data, tokenizer, run.settings["max_length"])
    disk.save(model, tokenizer, study.folder(run.name), about=study.about(run))
    size = {"parameters": model.num_parameters(), "megabytes": disk.size_mb(study.folder(run.name))}
    return {"scores": scores, **size, **parts, "emissions": {"training": estimate}}
