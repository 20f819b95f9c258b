"""Every run of a study as plain data: its name, its settings, and which runs it needs first.

Whoever makes runs, asks what is missing, or wants to know what a record is of, asks here. A name says what tells one
run of a profile from another; the settings say everything that decides what comes out, and are what a record keeps.
Where some of a profile's settings were changed, the runs that come out otherwise have names of their own.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from mmalib.model.packed import fingerprint
from mmalib.profiles import Profile
from mmalib.speed.cases import ALL, SPARSE, TORCH, Case, cases


@dataclass(frozen=True)
class Run:
    """One run of a study."""

    name: str
    settings: dict
    needs: dict[str, str] = field(default_factory=dict)  # the part that it plays → the run that must be there
    leaves: tuple[str, ...] = ()  # folders of models that it leaves

    @property
    def kind(self) -> str:
        """What is made: see `runs`."""
        return self.settings["kind"]

    @property
    def digest(self) -> str:
        """Tells one configuration from another under the same name."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]


# ---- What is compared ----

# The settings of a profile that say how a backbone is tuned, by the names that `finetune` has for them.
TRAINING = (
    *("epochs", "batch_size", "learning_rate", "max_length", "frozen"),
    *("head_rate", "label_smoothing", "masked_words", "average_from"),
)
AFTER = ("rate_after", "frozen_after")  # and those that say how its model is trained on

# Notebook 01: how a backbone is tuned, each setting tried alone and some together, chosen by English dev alone.
RECIPE = {
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 1e-4,
    "frozen": 0.0,
    "head_rate": 1.0,
    "label_smoothing": 0.0,
    "masked_words": 0.0,
    "average_from": None,
}
FAST_HEAD = {"learning_rate": 2e-4, "head_rate": 10.0}
RECIPES = {
    "start": {},
    "rate": {"learning_rate": 2e-4},
    "head": {"head_rate": 10.0},
    "rate-head": FAST_HEAD,
    "average": {"average_from": 2.0},
    "frozen": {"frozen": 1 / 3},
    "rate-head-frozen": FAST_HEAD | {"frozen": 1 / 3},
    "free": {"frozen": None},
    "head-free": {"head_rate": 10.0, "frozen": None},
    "rate-head-frozen-average": FAST_HEAD | {"frozen": 1 / 3, "average_from": 2.0},
    "smoothed": {"label_smoothing": 0.1},
    "masked": {"masked_words": 0.1},
    "batch": {"batch_size": 8},
    "longer": {"epochs": 5},
    "slow-head-free-masked-longer": {
        "learning_rate": 7e-5,
        "head_rate": 10.0,
        "frozen": None,
        "masked_words": 0.1,
        "epochs": 5,
    },
}
RECIPE_TRIAL = {"trial_sentences": 4000, "trial_dev_sentences": 1000}

# Notebook 02
METHODS = ("heads", "uniform")
KEPT_SHARES = (0.25, 0.5, 0.75)  # of the heads removed: these models are kept, recovered
IMPORTANCE_BATCH = 16  # sentences at once while importance is measured

# Notebook 03. The recipes of Kurtic et al. (table 9) after their two dense epochs: epochs that prune and that follow,
# mask updates, the rate's end as a share of its beginning, in how many stretches it falls while pruning (in one more
# after it). A profile shortens the epochs of the first by one factor. `rate` is a multiple of the profile's rate after
# tuning, `initial` the first jump of sparsity: 0 where curves are looked at.
OBERT = {
    "10 epochs": {"pruning_epochs": 6, "sparse_epochs": 2, "updates": 13, "end_rate": 3 / 8, "stretches": 1},
    "30 epochs": {"pruning_epochs": 24, "sparse_epochs": 4, "updates": 7, "end_rate": 1 / 10, "stretches": 6},
}
OBERT_TAUGHT = {"initial": 0.7, "hardness": 1.0, "temperature": 2.0}  # what the recipe's own rows add
CRITERIA = ("magnitude", "movement", "obs")
GRADUAL = ("random", *CRITERIA)  # random is the control
AT_ONCE = ("random", "magnitude", "obs")  # movement has nothing to go by without training
TWO_OF_FOUR = (0.5, "2:4")  # sparsity and pattern: what GPUs skip
PRUNING = {"rate": 1.0, "cycles": 1, "initial": 0.0, **OBERT["10 epochs"]}
# Movement's masks follow its scores, `every` so many steps, and no step may take many weights: a cubic curve would take
# 1 in 1,000 in each at first, and the model is dead after an epoch. It starts after a share `begin` of the pruning
# epochs; `score_rate` is that of Adam on the scores, None sums them up.
SCHEDULE = dict.fromkeys(GRADUAL, "cubic") | {"movement": "linear"}
FOLLOWING = {"updates": None, "every": 4, "begin": 0.0, "score_rate": 1e-2, "per_matrix": False}
PUBLISHED = {
    "random": PRUNING,
    "magnitude": PRUNING,
    "movement": PRUNING | FOLLOWING | {"every": 1, "begin": 0.1, "per_matrix": True},  # Sanh et al., their commands
    "obs": PRUNING | {"damp": 1e-7},
}
CHOSEN = {  # on the backbone of `small`, by English dev F1 among TRIALS; `paper` does not use them
    "random": PRUNING,
    "magnitude": PRUNING,
    "movement": PRUNING | FOLLOWING,
    "obs": PRUNING | {"damp": 1e-7},
}
SHARED_TRIALS = ({}, {"rate": 2.0}, {"rate": 0.5}, {"cycles": 4})  # the last is the first paper's cyclic rate
TRIALS = {  # as many settings for every criterion
    "magnitude": tuple(
        PUBLISHED["magnitude"] | tried
        for tried in (*SHARED_TRIALS, {"rate": 4.0}, {"initial": 0.5}, {"rate": 2.0, "updates": 26})
    ),
    "movement": tuple(
        PRUNING | FOLLOWING | tried
        for tried in (*SHARED_TRIALS, {"score_rate": 1e-1}, {"begin": 1 / 3}, {"per_matrix": True})
    ),
    "obs": tuple(
        PUBLISHED["obs"] | tried
        for tried in (*SHARED_TRIALS, {"damp": 1e-5}, {"initial": 0.5}, {"rate": 2.0, "updates": 26})
    ),
}
TRIAL = {"trial_sentences": 2000, "trial_dev_sentences": 500, "pruning_epochs": 2.0, "sparse_epochs": 1.0, "share": 0.8}
# What keeps movement alive: each setting adds one thing to the one before it.
SUMMED = PRUNING | FOLLOWING | {"updates": 13, "every": None, "score_rate": None}
LARGE_STEPS = {"batch_size": 16, "schedule": "cubic"}
MOVEMENT = {
    "random": PRUNING,
    "sums, 13 updates": SUMMED | LARGE_STEPS,
    "masks follow": SUMMED | LARGE_STEPS | {"updates": None, "every": 4},
    "Adam on the scores": PRUNING | FOLLOWING | LARGE_STEPS,
    "small batches": PRUNING | FOLLOWING | {"schedule": "cubic"},
    "linear": PRUNING | FOLLOWING,
    "dense at first": PRUNING | FOLLOWING | {"begin": 1 / 4},
    "per matrix": PRUNING | FOLLOWING | {"begin": 1 / 4, "per_matrix": True},
    "from pretrained": PRUNING | FOLLOWING | {"begin": 1 / 4, "per_matrix": True, "start": "pretrained"},
}
MOVEMENT_TRIAL = TRIAL | {"trial_sentences": 4000, "trial_dev_sentences": 1000}

# Notebook 04, see `studies.distillation`
STUDENTS = ("plain", "teacher", "longer", "unlabelled")
TEACHER = {"hardness": 0.5, "temperature": 2.0}  # gold labels and teacher in equal shares; also in notebook 06

# Notebook 05, see `studies.quantization`: graph → (kind of quantization, format)
GRAPHS = {
    "float": ("float", "float"),
    "longer": ("float", "float"),
    "dynamic": ("dynamic", "dynamic"),
    "static": ("static", "qdq"),
    "qat": ("qat", "qdq"),
    "without-data": ("without data", "qdq"),
    "static-qoperator": ("static", "qoperator"),
    "qat-qoperator": ("qat", "qoperator"),
    "qat-taught": ("qat", "qdq"),
    "qat-taught-qoperator": ("qat", "qoperator"),
    "static-embeddings": ("static", "qdq"),
    "floor": ("static", "qdq"),
    "floor-all": ("static", "qdq"),
}
INT8_KINDS = ("dynamic", "static", "qat", "without-data")  # the paper's four
TAUGHT_GRAPHS = {"qdq": "qat-taught", "qoperator": "qat-taught-qoperator"}  # by format: as notebook 06 learns int8
TRAINED_GRAPHS = ("longer", "qat", "qat-qoperator", *TAUGHT_GRAPHS.values())
FLOORS = {"floor": ("en",), "floor-all": ("en", "es", "nl")}  # the languages whose dev set the search looks at
FLOOR_POINTS, FLOOR_MAPS = 1.0, 6  # dev F1 that no language may lose; maps in float at most
RANDOM_LENGTH = 64  # subwords of a row of random ones
QAT_RATE = 0.25  # of the profile's rate after tuning: the baseline is tuned already

# Notebook 06, see `studies.combined`
HALF = 0.5  # share of heads and neurons that is gone in `halved-q`
COMBINED_STUDENTS = {"distil-q": "teacher", "distil-text-q": "unlabelled"}  # → the setting of notebook 04

# Notebook 07, see `studies.speed`
LENGTH = 128  # subwords, as in the paper
READERS = ("base", "trained", "trained int8")  # of text: the paper's shape, random; the tuned baseline; and in int8
TEXT_BATCH = 8

# Notebook 09, see `studies.crossed`: P prunes by gates, D is a student of every second layer, A trains adapters alone
ROWS = ("FT", "A", "LoRA", "D", "D+A")  # FT is full tuning
PRUNED_ROWS = {"P": "FT", "P+A": "A", "P+D": "D", "P+D+A": "D+A"}  # → the model that is pruned
LAYERWISE = {"hidden": 0.9, "temperature": 2.0}  # D: shares of hidden states and labels, as in CoFi
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
GATE_WARM_UP = 0.5  # share of the pruning in which the share asked for grows


# ---- What a study consists of ----


def runs(
    profile: Profile, corpus: str, notebook: str | None = None, changes: Mapping[str, object] | None = None
) -> list[Run]:
    """The runs of a study, or of one of its notebooks ("03"), in an order in which those that others need come first.

    Their kinds: recipe, baseline (01); structured, vocabulary (02); trial, movement, gradual, one-shot (03); student
    (04); graph, changed words (05); halved, combination (06); shape, text, trained (07); crossed, gated, searched, use,
    pairs sparse, pairs int8 (09). With `changes` of the profile, a run that comes out otherwise has them in its name
    and, as `varied`, in its settings.
    """
    every = _runs(profile, corpus)
    if changes:
        every = _varied(every, _runs(changed(profile, changes), corpus), dict(changes))
    return [run for run in every if notebook in (None, run.settings["notebook"])]


def changed(profile: Profile, changes: Mapping[str, object]) -> Profile:
    """The profile with other settings."""
    names = [field.name for field in dataclasses.fields(profile) if field.name != "name"]
    for name in changes:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise ValueError(f"A profile has no setting '{name}'." + (f" Did you mean '{near[0]}'?" if near else ""))
    return dataclasses.replace(profile, **changes)


def missing(records: Iterable[dict], wanted: Iterable[Run]) -> list[str]:
    """What is wanted and not there: whole runs, and scores that other records of the same kind have, by language."""
    wanted, there = list(wanted), {record["run"]: record for record in records}
    absent = [run.name for run in wanted if run.name not in there]
    cells = {run.name: _cells(there[run.name]) for run in wanted if run.name in there}
    by_kind: dict[tuple, dict] = {}
    for run in wanted:
        if run.name in cells:
            key = (run.kind, run.settings["corpus"])
            by_kind.setdefault(key, {}).update(cells[run.name])
    for run in wanted:
        if cells.get(run.name):
            rest = [cell for cell in by_kind[run.kind, run.settings["corpus"]] if cell not in cells[run.name]]
            absent += [f"{run.name} ({' '.join(cell)})" for cell in rest]
    return absent


def of_kind(records: Iterable[dict], *kinds: str) -> list[dict]:
    """The records of these kinds of runs."""
    return [record for record in records if record["settings"].get("kind") in kinds]


def _cells(record: dict) -> dict[tuple[str, str], None]:
    scores = {**record["scores"], **record.get("further", {})}
    return {(language, split): None for language, splits in scores.items() for split in splits}


def _runs(profile: Profile, corpus: str) -> list[Run]:
    seeds = dict.fromkeys((*profile.seeds, *profile.pruning_seeds))
    dense = {
        (name, seed): baseline(profile, name, corpus, seed)
        for name in dict.fromkeys((*profile.backbones, profile.teacher))
        for seed in seeds
    }
    bases = [dense[name, seed] for seed in profile.pruning_seeds for name in profile.backbones]
    teachers = [dense[profile.teacher, seed] for seed in profile.pruning_seeds]
    first = dense[profile.backbones[0], profile.seeds[0]]
    every = [recipe(profile, first, name) for name in (RECIPES if profile.trials else ())]
    every += dense.values()
    for base in bases:
        every += [*(structured(profile, base, method) for method in METHODS), vocabulary(base)]
    if profile.trials:
        every += [trial(profile, first, name, number) for name in CRITERIA for number in range(len(TRIALS[name]))]
        every += [movement_trial(profile, first, step) for step in MOVEMENT]
    for base in bases:
        every += [gradual(profile, base, name, share) for share in profile.sparsities for name in GRADUAL]
        every += [gradual(profile, base, "obs", max(profile.sparsities), "linear")]
        every += [one_shot(profile, base, name) for name in AT_ONCE]
    for teacher in teachers:
        every += [gradual(profile, teacher, "obs", share, taught=True) for share in profile.sparsities]
        for name in profile.students:
            settings = STUDENTS if name in profile.unlabelled_students else STUDENTS[:2]
            every += [student(profile, teacher, name, setting) for setting in settings]
    for base in {base.name: base for base in (*bases, *teachers)}.values():
        every += [graph(profile, base, name) for name in graphs(profile)]
        every += [changed_words(profile, base)]
    for teacher in teachers:
        every += [halved(profile, teacher)] if "halved-q" in combinations(profile) else []
        every += [combination(profile, teacher, name) for name in combinations(profile)]
    every += [shape(profile, case, corpus) for case in planned_cases(profile)]
    every += [text(profile, first, reader, corpus) for reader in readers(profile)]
    name = profile.cross_backbone or profile.backbones[0]
    tuned = [baseline(profile, name, corpus, seed) for seed in profile.pruning_seeds]
    timed = [*_trained(profile, first, every), *(base for base in tuned if base not in every)]
    return [*every, *timed, *_crossed(profile, tuned)]


def _crossed(profile: Profile, bases: Sequence[Run]) -> list[Run]:
    """The runs of notebook 09; further seeds at the first share alone, and on entities alone."""
    every: list[Run] = []
    for number, base in enumerate(bases):
        for task in ("entities", "similarity")[: 1 + (number == 0 and profile.pairs)]:
            wanted = profile.pair_rows if task == "similarity" else None
            every += _truth_table(profile, base, task, wanted or (*ROWS, *PRUNED_ROWS), not number)
        if not number:
            every += [searched(profile, base, times) for times in profile.speedups]
    models = [run for run in every if run.leaves and run.settings["seed"] == bases[0].settings["seed"]]
    return [*every, *(use(profile, bases[0], run) for run in (bases[0], *models)[: profile.used_models])]


def _truth_table(profile: Profile, base: Run, task: str, wanted: Sequence[str], complete: bool) -> list[Run]:
    tuned = base if task == "entities" else crossed(profile, base, base, task, "FT")
    starts = {row: tuned if row == "FT" else crossed(profile, base, tuned, task, row) for row in ROWS}
    needed = {PRUNED_ROWS.get(row, row) for row in wanted} | {"FT"}
    every = [start for row, start in starts.items() if row in needed and start is not base]
    for row in (row for row in PRUNED_ROWS if row in wanted):
        shares = profile.cross_shares if complete else profile.cross_shares[:1]
        every += [gated(profile, base, starts[PRUNED_ROWS[row]], row, share) for share in shares]
    if task == "similarity":
        every += [
            pairs_sparse(profile, tuned, name, share) for share in profile.sparsities for name in profile.pair_criteria
        ]
        every += [pairs_int8(profile, tuned)]
    return every


def _trained(profile: Profile, base: Run, every: Sequence[Run]) -> list[Run]:
    """The models to time: of the first seed, the notebooks in turns; and as many of the combined ones alone."""
    seed = min(run.settings["seed"] for run in every if run.leaves)
    by_notebook: dict[str, list[Run]] = {}
    for run in every:
        if run.settings.get("seed") == seed and run.kind != "halved":
            timed = [trained(profile, base, run, leaf) for leaf in run.leaves]
            by_notebook.setdefault(run.name[:2], []).extend(one for one in timed if one.settings["runtimes"])
    turns = [run for turn in zip_longest(*(by_notebook[name] for name in sorted(by_notebook))) for run in turn if run]
    chosen = [*by_notebook["06"][: profile.speed_models], *turns[: profile.speed_models]]
    return list({run.name: run for run in chosen}.values())


def _varied(every: Sequence[Run], otherwise: Sequence[Run], changes: dict) -> list[Run]:
    """The runs of a changed profile; those that come out as before are the profile's own."""
    tag = "+" + ",".join(f"{name}={_short(value)}" for name, value in sorted(changes.items()))
    before, names, varied = {run.name: run for run in every}, {}, []
    for run in otherwise:
        if run.name in before and run.settings == before[run.name].settings and not names.keys() & run.needs.values():
            varied.append(run)
            continue
        names[run.name] = run.name + tag
        label = f"{run.settings['label']}, {', '.join(f'{name} {_short(changes[name])}' for name in sorted(changes))}"
        settings = run.settings | {"varied": changes, "label": label}
        if run.kind in ("trained", "use") and run.settings["model"] in names:  # it times what the other name has left
            model = names[run.settings["model"]]
            folder = run.settings["folder"].replace(run.settings["model"], model, 1)
            settings |= {"model": model, "folder": folder}
        varied.append(
            Run(
                names[run.name],
                settings,
                {part: names.get(need, need) for part, need in run.needs.items()},
                tuple(leaf.replace(run.name, names[run.name], 1) for leaf in run.leaves),
            )
        )
    return varied


def _short(value: object) -> str:
    """A changed setting as a part of a name."""
    if isinstance(value, (list, tuple)):
        return "-".join(map(_short, value))
    return re.sub(r"[^A-Za-z0-9.-]+", "-", format(value, "g") if isinstance(value, float) else str(value))


# ---- The runs one by one ----


def baseline(profile: Profile, backbone: str, corpus: str, seed: int) -> Run:
    """A backbone tuned on English, scored on every language."""
    settings = {
        "kind": "baseline",
        "notebook": "01",
        "method": "baseline",
        "label": Path(backbone).name,
        "backbone": backbone,
        "weights": fingerprint(backbone),
        "corpus": corpus,
        "seed": seed,
        "train_sentences": profile.train_sentences,
        "eval_sentences": profile.eval_sentences,
        **_of(profile, *TRAINING),
    }
    name = baseline_name(backbone, corpus, seed)
    return Run(name, settings, leaves=(name,))


def recipe(profile: Profile, base: Run, name: str) -> Run:
    """A backbone tuned in another way on a part of English."""
    same = ("label", "backbone", "weights", "corpus", "seed", "max_length")
    settings = {
        "kind": "recipe",
        "notebook": "01",
        "method": "recipe",
        **{key: base.settings[key] for key in same},
        "trial": name,
        **RECIPE_TRIAL,
        **RECIPE,
        **RECIPES[name],
    }
    return Run(f"01-trial-{name}-{_model(base)}-{base.settings['corpus']}", settings)


def kept_shares(profile: Profile) -> list[float]:
    """Those of `KEPT_SHARES` that steps of this size come by."""
    return [
        share for share in KEPT_SHARES if abs(share / profile.head_share - round(share / profile.head_share)) < 1e-6
    ]


def structured(profile: Profile, base: Run, method: str) -> Run:
    """A trajectory of heads, or of heads and neurons, removed step by step."""
    name = structured_name(method, *_where(base))
    names = ("curve_sentences", "head_share", "importance_sentences", "recovery_sentences")
    settings = {
        **base.settings,
        "kind": "structured",
        "notebook": "02",
        "method": method,
        "importance_batch": IMPORTANCE_BATCH,
        **_of(profile, *AFTER, *names),
    }
    return Run(name, settings, {"base": base.name}, tuple(kept_leaf(name, share) for share in kept_shares(profile)))


def vocabulary(base: Run) -> Run:
    """The subwords gone that no training text uses."""
    name = structured_name("vocabulary", *_where(base))
    settings = base.settings | {"kind": "vocabulary", "notebook": "02", "method": "vocabulary"}
    return Run(name, settings, {"base": base.name}, (name,))


def gradual(
    profile: Profile, base: Run, criterion: str, share: float, schedule: str | None = None, *, taught: bool = False
) -> Run:
    """A baseline pruned while it trains on; a taught one by the recipe of Kurtic et al., its dense self as teacher."""
    schedule = schedule or SCHEDULE[criterion]
    name = gradual_name(criterion, share, schedule, *_where(base), taught=taught)
    settings = {
        **base.settings,
        **_criterion(profile, criterion),
        "kind": "gradual",
        "share": share,
        "schedule": schedule,
        "pattern": "1",
        "batch_size": profile.pruning_batch or profile.batch_size,
        **({} if criterion == "movement" else {"updates": profile.pruning_updates}),
        **_of(profile, "pruning_epochs", "sparse_epochs", *AFTER),
        # a trajectory is scored before and after most mask updates, which would take longer than the training
        "curve_sentences": profile.curve_sentences and max(1, profile.curve_sentences // 4),
        **(OBERT_TAUGHT if taught else {}),
        **({"initial": share * 7 / 9} if taught and share <= OBERT_TAUGHT["initial"] else {}),  # it must be less
    }
    return Run(name, settings, {"base": base.name}, (name,))


def one_shot(profile: Profile, base: Run, criterion: str) -> Run:
    """A baseline pruned at once, without training after it, at every sparsity that the profile asks for."""
    settings = {
        **base.settings,
        **_criterion(profile, criterion, {"damp": PUBLISHED["obs"]["damp"]}),  # nothing else plays a part
        "kind": "one-shot",
        "points": [*([share, "1"] for share in profile.one_shot), list(TWO_OF_FOUR)],
        **_of(profile, "curve_sentences"),
    }
    return Run(_after(base, "03", f"oneshot-{criterion}"), settings, {"base": base.name})


def trial(profile: Profile, base: Run, criterion: str, number: int) -> Run:
    """A short pruning whose English dev F1 is all that is looked at."""
    name = f"03-trial-{criterion}-{number}-{_model(base)}-{base.settings['corpus']}"
    return _tried(profile, base, name, criterion, TRIALS[criterion][number], TRIAL | {"trial": number})


def movement_trial(profile: Profile, base: Run, step: str) -> Run:
    """One setting of `MOVEMENT`: what keeps movement alive."""
    name = f"03-step-{re.sub('[^a-z0-9]+', '-', step.lower())}-{_model(base)}-{base.settings['corpus']}"
    criterion = "random" if step == "random" else "movement"
    return _tried(profile, base, name, criterion, MOVEMENT[step], MOVEMENT_TRIAL | {"step": step, "kind": "movement"})


def _tried(profile: Profile, base: Run, name: str, criterion: str, chosen: dict, size: dict) -> Run:
    settings = {
        **base.settings,
        **_criterion(profile, criterion, chosen),
        "kind": "trial",
        **_of(profile, *AFTER),
        "schedule": SCHEDULE[criterion],
        "pattern": "1",
        "batch_size": profile.pruning_batch or profile.batch_size,
        **size,
        **{key: chosen[key] for key in ("batch_size", "schedule") if key in chosen},
    }
    return Run(name, settings, {"base": base.name})


def student(profile: Profile, teacher: Run, backbone: str, setting: str) -> Run:
    """A smaller backbone tuned in one of the settings of notebook 04; `plain` is compared with the teacher too."""
    own = baseline(profile, backbone, teacher.settings["corpus"], teacher.settings["seed"])
    taught = {"hardness": 0.0} if setting == "plain" else {**TEACHER, "teacher_epochs": profile.epochs}
    longer = _of(profile, "unlabelled_sentences") if setting in ("longer", "unlabelled") else {}
    settings = {
        **own.settings,
        "kind": "student",
        "notebook": "04",
        "method": "distillation",
        "setting": setting,
        "sees_target_text": setting == "unlabelled",
        "teacher": profile.teacher,
        "teacher_weights": teacher.settings["weights"],
        "epochs": profile.distil_epochs,
        **taught,
        **longer,
    }
    name = student_name(backbone, setting, *_where(own)[1:])
    return Run(name, settings, {"base": teacher.name}, (name,))


def graphs(profile: Profile) -> list[str]:
    """The graphs of notebook 05: those that the profile wants, and those that they and notebook 06 start from."""
    if unknown := sorted(set(profile.int8_graphs or ()) - set(GRAPHS)):
        raise ValueError(f"int8_graphs of profile {profile.name} has '{unknown[0]}'. Known are {', '.join(GRAPHS)}.")
    wanted = set(profile.int8_graphs or GRAPHS)
    wanted |= {"floor-all"} if "floor" in wanted else set()
    wanted |= {TAUGHT_GRAPHS[combination_format(name)] for name in combinations(profile)}
    needed = {need for name in wanted for need in _graph_needs(name)}
    return [name for name in GRAPHS if name in wanted | needed]


def graph(profile: Profile, base: Run, name: str) -> Run:
    """A baseline as a graph in one of the forms of `GRAPHS`, scored itself."""
    kind, form = GRAPHS[name]
    settings = {
        **base.settings,
        "kind": "graph",
        "notebook": "05",
        "method": "quantization",
        "graph": name,
        "int8": kind,
        "format": form,
        "runtime": "onnxruntime",
        **_of(profile, "int8_sentences"),
    }
    if kind == "static":
        settings |= _of(profile, "calibration_sentences", "calibration_methods")
    if kind == "without data":
        settings |= {**_of(profile, "calibration_sentences"), "random_length": RANDOM_LENGTH}
    if name in TRAINED_GRAPHS:
        settings |= {**_of(profile, "qat_sentences", "qat_epochs", *AFTER), "qat_rate": QAT_RATE}
    if name in TAUGHT_GRAPHS.values():
        settings |= TEACHER
    if name in FLOORS:
        settings |= {**_of(profile, "floor_sentences", "floor_layers"), "floor_languages": FLOORS[name]}
        settings |= {"floor_points": FLOOR_POINTS, "floor_most": FLOOR_MAPS}
    needs = {need: graph_name(need, *_where(base)) for need in _graph_needs(name)}
    run = graph_name(name, *_where(base))
    return Run(run, settings, {"base": base.name, **needs}, (run,))


def changed_words(profile: Profile, base: Run) -> Run:
    """Every kind of int8 beside the float graph, word by word."""
    compared = ["float", *(name for name in graphs(profile) if name in (*INT8_KINDS, "longer"))]
    settings = {
        **base.settings,
        "kind": "changed words",
        "notebook": "05",
        "method": "changed words",
        **_of(profile, "int8_sentences"),
        "graphs": {name: graph(profile, base, name).settings for name in compared},
    }
    needs = {name: graph_name(name, *_where(base)) for name in compared}
    return Run(changed_words_name(*_where(base)), settings, {"base": base.name, **needs})


def combinations(profile: Profile) -> list[str]:
    """The combined models of notebook 06."""
    text = profile.students[0] in profile.unlabelled_students
    students = [name for name in COMBINED_STUDENTS if text or name != "distil-text-q"]
    halves = ["halved-q"] if HALF in kept_shares(profile) else []
    return [*(f"{100 * share:.0f}-q" for share in profile.sparsities), *students, *halves]


def combination_format(name: str) -> str:
    """The format of a combined model's graph; the sparse ones are for DeepSparse, which wants its own."""
    return "qdq" if name in (*COMBINED_STUDENTS, "halved-q") else "qoperator"


def halved(profile: Profile, teacher: Run) -> Run:
    """The float model of `halved-q`: half of heads and neurons and the unused subwords gone, tuned with the teacher."""
    name, start = _after(teacher, "06", "halved"), structured(profile, teacher, "uniform")
    settings = {
        **start.settings,
        "kind": "halved",
        "notebook": "06",
        "method": "halved",
        "removed": HALF,
        **_of(profile, "distil_epochs"),
        **TEACHER,
    }
    return Run(name, settings, {"base": teacher.name, "start": start.name}, (name,))


def combination(profile: Profile, teacher: Run, name: str) -> Run:
    """A small or sparse model, a teacher, and int8 on top of both; `int8` is what int8 costs alone."""
    if name in COMBINED_STUDENTS:
        start = student(profile, teacher, profile.students[0], COMBINED_STUDENTS[name])
    elif name == "halved-q":
        start = halved(profile, teacher)
    else:
        start = gradual(profile, teacher, "obs", int(name.split("-")[0]) / 100, taught=True)
    form = combination_format(name)
    settings = {
        **teacher.settings,
        "kind": "combination",
        "notebook": "06",
        "method": "combination",
        "combination": name,
        "format": form,
        "runtime": "onnxruntime",
        **_of(profile, "int8_sentences", "qat_sentences", "qat_epochs", *AFTER, "distil_epochs"),
        "qat_rate": QAT_RATE,
        **TEACHER,
        "start": start.settings,
    }
    needs = {"base": teacher.name, "start": start.name, "float": graph_name("float", *_where(teacher))}
    if name != "halved-q":
        needs["int8"] = graph_name(TAUGHT_GRAPHS[form], *_where(teacher))
    run = _after(teacher, "06", name)
    return Run(run, settings, needs, (run,))


def planned_cases(profile: Profile) -> list[Case]:
    """The random shapes that the profile times, in their order."""
    return [case for case in cases() if profile.speed_cases is None or case.name in profile.speed_cases]


def shape(profile: Profile, case: Case, corpus: str) -> Run:
    """A random model of one of the paper's shapes, timed beside the dense one."""
    own_batches = case.batches if profile.speed_cases is None else None
    settings = {
        **_timing(profile, corpus, "shape", case.name),
        "case": case.name,
        "shape": case.shape,
        "depth": case.depth,
        "deepest": profile.speed_layers,
        "zeros": case.sparsity,
        "pattern": case.pattern,
        "heads": case.heads,
        "uniform": case.uniform,
        "int8": case.int8,
        "runtimes": _asked(profile, case.runtimes),
        "batches": list(own_batches or profile.speed_batches),
    }
    return Run(speed_name(case.name, corpus), settings)


def readers(profile: Profile) -> tuple[str, ...]:
    """Who reads text in a study: the full-size shape, which takes minutes, only where no configuration is left out."""
    return READERS if profile.speed_cases is None else READERS[1:]


def text(profile: Profile, base: Run, reader: str, corpus: str) -> Run:
    """Real sentences, read by one of `READERS` in all runtimes."""
    settings = {
        **_timing(profile, corpus, "text", reader),
        "model": reader,
        "text_batch": TEXT_BATCH,
        "text_sentences": profile.speed_sentences,
        # DeepSparse wants another form of int8, and of each shape an engine: float, and padded text, are enough.
        "runtimes": _asked(
            profile, ALL if reader != "trained int8" else [n for n in (*ALL, *TORCH) if n not in SPARSE]
        ),
    }
    return Run(speed_name(f"text {reader}", corpus), settings, {} if reader == "base" else {"base": base.name})


def trained(profile: Profile, base: Run, run: Run, leaf: str) -> Run:
    """A model that a run has left, timed beside the dense baseline, in the runtimes that run its form fast."""
    form = run.settings.get("format", "float")
    in_order = [name for name in ALL if name not in SPARSE]
    fast = {"float": ALL, "qoperator": SPARSE, "dynamic": in_order}.get(form, [*in_order, *TORCH])
    settings = {
        **_timing(profile, run.settings["corpus"], "trained", run.settings["label"]),
        "model": run.name,
        "folder": leaf,
        "digest": run.digest,
        "trained_in": run.settings["notebook"],
        "runtimes": _asked(profile, fast),
        "batches": list(profile.speed_batches),
        "scored_sentences": profile.int8_sentences,
    }
    needs = {"model": run.name, "base": base.name}
    return Run(speed_name(f"trained {leaf}", run.settings["corpus"]), settings, needs)


def crossed(profile: Profile, base: Run, tuned: Run, task: str, row: str) -> Run:
    """A row of the truth table without P; `tuned`, the row FT, teaches D. Adapters leave the pretrained model alone."""
    settings = {
        **base.settings,
        "kind": "crossed",
        "notebook": "09",
        "method": row,
        "task": task,
        "row": row,
        **_of(profile, "cross_sentences", "cross_scored", *AFTER, "country"),
        "epochs": profile.cross_epochs or profile.epochs,
        "label_smoothing": 0.0 if task == "similarity" or "D" in row else profile.label_smoothing,
        "masked_words": 0.0 if task == "similarity" else profile.masked_words,
    }
    if "D" in row:
        settings |= {**LAYERWISE, "teacher_digest": tuned.digest, "frozen": 0.0}  # the embeddings stay the teacher's
    if row == "LoRA" or "A" in row.split("+"):
        rates = {"learning_rate": profile.adapter_rate, "rate_after": profile.adapter_rate, "head_rate": 1.0}
        settings |= {**rates, "frozen": None, "frozen_after": None, "average_from": None}
        settings |= LORA if row == "LoRA" else _of(profile, "adapter_width")
    name = crossed_name(task, row, *_where(base))
    return Run(name, settings, {} if row == "FT" else {"base": tuned.name}, (name,))


def gated(profile: Profile, base: Run, start: Run, row: str, share: float) -> Run:
    """A row of the truth table with P: gates close on a model of the row without it, which is then tuned on."""
    settings = {
        "task": "entities",
        **_of(profile, "cross_sentences", "cross_scored", *AFTER, "country"),
        **start.settings,
        "kind": "gated",
        "notebook": "09",
        "method": f"{row} {share:.0%}",
        "row": row,
        "share": share,
        **_of(profile, "gate_epochs", "gate_after", "gate_rate"),
        "gate_warm_up": GATE_WARM_UP,
    }
    name = crossed_name(settings["task"], row, *_where(base), share=share)
    return Run(name, settings, {"base": start.needs.get("base", start.name), "start": start.name}, (name,))


def searched(profile: Profile, base: Run, times: float) -> Run:
    """Heads and neurons taken out of a baseline for a speed-up that is asked for, without training."""
    name = _after(base, "09", f"searched-{times:g}x")
    settings = {
        **_timing(profile, base.settings["corpus"], "searched", base.settings["label"]),
        **base.settings,
        "kind": "searched",
        "notebook": "09",
        "method": f"mask search {times:g}x",
        "task": "entities",
        "row": "search",
        "times": times,
        **_of(profile, "importance_sentences", "cross_scored", "country"),
        "batches": [max(profile.speed_batches)],
    }
    return Run(name, settings, {"base": base.name}, (name,))


def pairs_sparse(profile: Profile, tuned: Run, criterion: str, share: float) -> Run:
    """Similarity pruned weight by weight, as notebook 03 prunes entities."""
    like = gradual(profile, tuned, criterion, share)
    settings = like.settings | {"kind": "pairs sparse", "notebook": "09", "row": criterion}
    name = crossed_name("similarity", criterion, *_where(tuned), share=share)
    return Run(name, settings, {"base": tuned.name}, (name,))


def pairs_int8(profile: Profile, tuned: Run) -> Run:
    """Similarity in static int8, by ranges as notebook 05 takes them first."""
    name = crossed_name("similarity", "int8", *_where(tuned))
    settings = {
        **tuned.settings,
        "kind": "pairs int8",
        "method": "int8",
        "row": "int8",
        **_of(profile, "calibration_sentences"),
        "calibration": profile.calibration_methods[0],
    }
    return Run(name, settings, {"base": tuned.name}, (name,))


def use(profile: Profile, base: Run, run: Run) -> Run:
    """A model of notebook 09 at work: its speed beside the dense one's, and what reading takes."""
    settings = {
        **_timing(profile, run.settings["corpus"], "use", run.settings["label"]),
        "notebook": "09",
        "model": run.name,
        "folder": run.leaves[0],
        "digest": run.digest,
        "task": run.settings.get("task", "entities"),
        "batches": [max(profile.speed_batches)],
        **_of(profile, "used_sentences", "country"),
    }
    return Run(f"09-use-{run.name.removeprefix('09-')}", settings, {"model": run.name, "base": base.name})


# ---- Names ----


def baseline_name(backbone: str, corpus: str, seed: int) -> str:
    """The run of a baseline."""
    return f"01-{Path(backbone).name}-{corpus}-seed{seed}"


def structured_name(method: str, backbone: str, corpus: str, seed: int) -> str:
    """The run of a trajectory, or of the cut vocabulary."""
    return f"02-{method}-{Path(backbone).name}-{corpus}-seed{seed}"


def kept_leaf(run: str, share: float) -> str:
    """The folder of the recovered model of a trajectory at one of `KEPT_SHARES`."""
    return f"{run}-{100 * share:.0f}"


def gradual_name(
    criterion: str, share: float, schedule: str, backbone: str, corpus: str, seed: int, *, taught: bool = False
) -> str:
    """The run of a gradually pruned model."""
    how = f"{schedule}-taught" if taught else schedule
    return f"03-{criterion}-{100 * share:.0f}-{how}-{Path(backbone).name}-{corpus}-seed{seed}"


def student_name(student: str, setting: str, corpus: str, seed: int) -> str:
    """The run of a student in one setting."""
    return f"04-{Path(student).name}-{setting}-{corpus}-seed{seed}"


def graph_name(graph: str, backbone: str, corpus: str, seed: int) -> str:
    """The run of one graph of a baseline."""
    return f"05-{graph}-{Path(backbone).name}-{corpus}-seed{seed}"


def changed_words_name(backbone: str, corpus: str, seed: int) -> str:
    """The run that compares graphs word by word."""
    return f"05-changed-words-{Path(backbone).name}-{corpus}-seed{seed}"


def crossed_name(task: str, row: str, backbone: str, corpus: str, seed: int, *, share: float | None = None) -> str:
    """The run of a row of notebook 09, and of a share that went."""
    what = row.replace("+", "-").lower() + ("" if share is None else f"-{100 * share:.0f}")
    return f"09-{task}-{what}-{Path(backbone).name}-{corpus}-seed{seed}"


def speed_name(what: str, corpus: str) -> str:
    """The run that times a shape, a text or a trained model."""
    return "07-" + re.sub(r"[^A-Za-z0-9.+,=]+", "-", what.replace("%", "")) + f"-{corpus}"


def _after(base: Run, notebook: str, what: str) -> str:
    return f"{notebook}-{what}-{_model(base)}-{base.settings['corpus']}-seed{base.settings['seed']}"


def _model(base: Run) -> str:
    return Path(base.settings["backbone"]).name


def _where(base: Run) -> tuple[str, str, int]:
    return base.settings["backbone"], base.settings["corpus"], base.settings["seed"]


# ---- Settings ----


def _of(profile: Profile, *names: str) -> dict:
    return {name: getattr(profile, name) for name in names}


def _criterion(profile: Profile, criterion: str, chosen: dict | None = None) -> dict:
    """What the settings say of a criterion: how it prunes, and for second order what its Fisher is made of."""
    chosen = chosen or (PUBLISHED if profile.published else CHOSEN)[criterion]
    settings = {"notebook": "03", "method": criterion, **chosen}
    if criterion == "obs":
        return settings | _of(profile, "fisher_gradients", "fisher_batch", "fisher_block")
    return {name: value for name, value in settings.items() if name != "damp"}


def _graph_needs(name: str) -> tuple[str, ...]:
    if name == "float":
        return ()
    return ("float", "static") if name in (*FLOORS, "static-qoperator", "static-embeddings") else ("float",)


def _timing(profile: Profile, corpus: str, kind: str, label: str) -> dict:
    return {
        "kind": kind,
        "notebook": "07",
        "method": kind,
        "label": label,
        "corpus": corpus,
        "length": LENGTH,
        "measured_seconds": profile.speed_seconds,
        "turns": profile.speed_turns,
        "calls": profile.speed_calls,
    }


def _asked(profile: Profile, wanted: Sequence[str]) -> list[str]:
    """Those of the runtimes wanted that the profile measures; settings follow a runtime's name after a colon."""
    return [name for name in wanted if name.split(":")[0] in profile.speed_runtimes]
