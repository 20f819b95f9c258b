"""A study: one profile on one corpus in one folder, and the one life that each of its runs has.

    study = Study.open("quick", "runs")
    study.make_all(study.runs("03"))
    study.missing("03")

A run is read where its record is there with the same settings, refused where it has others, and otherwise made: what is
unfinished lies in a folder that carries the settings' digest, the record is written when all is there. Each run is
locked while it is made, whoever makes it, and by nobody else.
"""

import dataclasses
import importlib
import os
import shutil
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from mmalib import plan, runtimes
from mmalib.plan import Run
from mmalib.profiles import Profile, changed, load_profile
from mmalib.records import clock, lock, store

MAKERS = {  # module → kind of run → its function: (study, run, folder for what is unfinished) → parts of the record
    "training": {"recipe": "attempt", "baseline": "tune", "student": "tune"},
    "structured": {"structured": "shrink", "vocabulary": "cut_vocabulary"},
    "unstructured": {"gradual": "prune", "compound": "prune"}
    | {"one-shot": "one_shot", "ablation": "one_shot", "trial": "attempt", "movement": "attempt"},
    "quantization": {"graph": "quantize", "changed words": "compare"},
    "combined": {"halved": "halve", "combination": "combine"},
    "speed": {"shape": "shape", "text": "text", "trained": "trained"},
    "compound": {"layers": "drop", "compound int8": "quantize", "compound speed": "measure", "held": "hold"},
    "upstream": {"upstream": "prune", "transfer": "transfer"},
    "crossed": {"crossed": "tune", "gated": "prune", "searched": "search", "use": "use"}
    | {"crossed sparse": "sparse", "pairs int8": "int8"},
}


class Study:
    """A profile (with `changes` of it), a corpus, and the folder where everything is put."""

    def __init__(self, profile: Profile, runs: Path, data: str | None = None, changes: dict | None = None) -> None:
        self.original, self.changes = profile, dict(changes or {})
        self.profile = changed(profile, self.changes)
        self.top, self.home, self.data = Path(runs), Path(runs) / profile.name, data

    @classmethod
    def open(
        cls, profile: str | Profile = "quick", runs: str | Path = "runs", data: str | None = None, text: str = ""
    ) -> "Study":
        """The study of a profile in the folder `runs`; `data` as in `corpus.load`, `text` a folder of plain text."""
        profile = load_profile(profile) if isinstance(profile, str) else profile
        if text := text or os.environ.get("MMALIB_TEXT"):
            profile = dataclasses.replace(profile, text_folder=str(Path(text).expanduser().resolve()))
        return cls(profile, Path(runs), data or None)

    def vary(self, **changes: object) -> "Study":
        """The same study with other settings of its profile; the runs that come out otherwise lie beside its own."""
        return Study(self.original, self.top, self.data, self.changes | changes)

    @cached_property
    def corpus(self) -> str:
        """The corpus' name."""
        from mmalib.data import corpus  # here, or whoever only reads records would wait for it

        return corpus.corpus_name(self.profile, self.data)

    @cached_property
    def corpora(self):
        """The sentences, read when they are first asked for: the same ones for all records of a folder."""
        from mmalib.data import corpus

        corpora = corpus.load(self.profile, self.data)
        for language, fingerprint in corpora.fingerprints.items():
            known = self.home / "corpora" / "-".join(filter(None, (self.corpus, language)))
            if not known.exists():
                store.write_atomic(known, fingerprint)
            if known.read_text(encoding="utf-8") != fingerprint:
                raise ValueError(f"{self.home} is of other {known.name} sentences. Take another --runs, or --fresh.")
        return corpora

    @cached_property
    def plan(self) -> dict[str, Run]:
        """Every run by its name, those that others need first; of the second task where its pairs are there."""
        from mmalib.data import corpus, pairs

        has_pairs = self.original.pairs and pairs.there(corpus.source_of(self.profile, self.data))
        original = dataclasses.replace(self.original, pairs=has_pairs)
        return {run.name: run for run in plan.runs(original, self.corpus, changes=self.changes)}

    def runs(self, notebook: str | None = None, kind: str | None = None) -> list[Run]:
        """The runs of the study, or of one notebook, or of one kind."""
        return [r for r in self.plan.values() if notebook in (None, r.settings["notebook"]) and kind in (None, r.kind)]

    def records(self) -> list[dict]:
        """The records in the study's folder that are of its corpus, those of changed profiles too."""
        return [r for r in store.read(self.home / "records") if r["settings"]["corpus"] == self.corpus]

    def missing(self, notebook: str | None = None) -> list[str]:
        """What the study, or one notebook, has not yet."""
        return plan.missing(self.records(), self.runs(notebook))

    def done(self, run: Run) -> dict | None:
        """The record of a run if it is there with the same settings, and so are the models that it leaves."""
        record = store.finished(self.home / "records", run.name, run.settings)
        if record is None or runtimes.to_measure_again([*record.get("throughput", ()), *record.get("text", ())]):
            return None
        there = record.get("same_as") or all(self._stamped(leaf, run) for leaf in record.get("leaves", run.leaves))
        return record if there else None

    def make(self, run: Run | str) -> dict:
        """The record of a run; it is made where it is not there yet, and before it what it needs."""
        run = self.plan[run] if isinstance(run, str) else run
        if record := self.done(run):
            return record
        for need in run.needs.values():
            self.make(need)
        with lock.hold(self.home / "locks" / f"{run.name}.lock", f"The run {run.name}", patience=None):
            if record := self.done(run):  # by whoever held the lock before
                return record
            unfinished = self.home / "unfinished" / f"{run.name}-{run.digest}"
            spent = unfinished.with_name(f"{unfinished.name}.seconds")
            module = next(name for name, kinds in MAKERS.items() if run.kind in kinds)
            maker = getattr(importlib.import_module(f"mmalib.studies.{module}"), MAKERS[module][run.kind])
            with clock.sitting(spent) as seconds:
                parts = {"scores": {}, **maker(self, run, unfinished)}
            store.save(self.home / "records", run.name, run.settings, needs=run.needs, timings=seconds, **parts)
            spent.unlink()
            shutil.rmtree(unfinished, ignore_errors=True)
        return store.finished(self.home / "records", run.name, run.settings)

    def make_all(self, runs: Iterable[Run]) -> list[dict]:
        """The records of these runs, made one after the other, or by the workers that the environment tells of."""
        from mmalib.studies import workers

        return workers.make_all(self, list(runs))

    def folder(self, leaf: str) -> Path:
        """Where a run leaves a model."""
        return self.home / "models" / leaf

    def model(self, name: str):
        """The model that a run has left, on the machine's device and ready to predict, and its tokenizer."""
        from mmalib.model import disk
        from mmalib.records import machine

        self.make(name)
        model, tokenizer = disk.load(self.folder(name))
        return model.to(machine.device()), tokenizer

    def graph(self, name: str) -> Path:
        """The folder of the graph that a run has left, or of the one that it came out the same as."""
        return self.folder(self.make(name).get("same_as") or name)

    def about(self, run: Run) -> dict:
        """What a model's folder tells of the run that left it."""
        return {"run": run.name, "settings": run.digest, **{key: run.settings[key] for key in ("corpus", "seed")}}

    def _stamped(self, leaf: str, run: Run) -> bool:
        folder = self.folder(leaf)
        there = any((folder / name).is_file() for name in ("model.safetensors", "model.onnx"))
        return there and store.read_json(folder / "mmalib.json").get("settings") == run.digest
