"""Every run of a study as plain data: its name, its settings, and which runs it needs first.

Whoever makes runs, asks what is missing, or wants to know what a record is of, asks here. A name says what tells one
run of a profile from another; the settings say everything that decides what comes out, and are what a record keeps.
Where some of a profile's settings were changed, the runs that come out otherwise have names of their own.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product, zip_longest
from pathlib import Path

from mmalib.model.packed import fingerprint
from mmalib.profiles import CHOICES, RANGES, RUNTIMES, Profile, changed
from mmalib.speed.cases import ALL, SKIPPING, SPARSE, TORCH, Case, cases


@dataclass(frozen=True)
class Run:
    """One run of a study."""

    name: str
    settings: dict
    needs: dict[str, str] = field(default_factory=dict)  # the part that it plays → the run that must be there
    leaves: tuple[str, ...] = ()  # folders of models that it leaves

    @property
    def kind(self) -> str:
        """What is made: see `studies.study.MAKERS`."""
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

# Notebook 01: how a backbone is tuned, each setting tried alone and some together; it tells what was taken, and why.
RECIPE = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-4, "frozen": 0.0}
RECIPE |= {"head_rate": 1.0, "label_smoothing": 0.0, "masked_words": 0.0, "average_from": None}
FAST_HEAD = {"learning_rate": 2e-4, "head_rate": 10.0}
LONG = {"learning_rate": 7e-5, "head_rate": 10.0, "frozen": None, "masked_words": 0.1, "epochs": 5}
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
    "slow-head-free-masked-longer": LONG,
    "slow-head-free-masked-longer-average": LONG | {"average_from": 2.0},
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
# What the recipe's own rows add. Nothing warms up: the first jump would fall where the rate is 0.
OBERT_TAUGHT = {"initial": 0.7, "hardness": 1.0, "temperature": 2.0, "warm_up": 0.0}
CRITERIA = ("magnitude", "movement", "obs")
GRADUAL = ("random", *CRITERIA)  # random is the control
AT_ONCE = ("random", "magnitude", "obs")  # movement has nothing to go by without training
TWO_OF_FOUR = (0.5, "2:4")  # sparsity and pattern: what GPUs skip
PRUNING = {"rate": 1.0, "cycles": 1, "initial": 0.0, **OBERT["10 epochs"]}
# Movement's masks follow its scores, `every` so many steps, and no step may take many weights: what goes together has
# pushed the logits one way (`benchmarks/movement.py`). A cubic curve takes too many at first; on `e5` an even loss
# does too, unless scores begin at `score_start` times the weights' sizes. Movement starts after a share `begin` of the
# pruning epochs; `score_rate` is that of Adam on the scores, None sums them up.
SCHEDULE = dict.fromkeys(GRADUAL, "cubic") | {"movement": "linear"}
FOLLOWING = {"updates": None, "every": 4, "begin": 0.0, "score_rate": 1e-2, "per_matrix": False}
PUBLISHED = {
    "random": PRUNING,
    "magnitude": PRUNING,
    "movement": PRUNING | FOLLOWING | {"every": 1, "begin": 0.1, "per_matrix": True},  # Sanh et al., their commands
    "obs": PRUNING | {"damp": 1e-7},
}
# What trials begin from, and what came of them by English dev F1 on `e5`, whose gradients are small: less damping. That
# magnitude gains by a first jump as well is left, since curves are looked at from 0 on. `paper` uses neither.
TRIED_FROM = PUBLISHED | {"movement": PRUNING | FOLLOWING | {"score_start": 1.0}}
CHOSEN = TRIED_FROM | {"obs": PRUNING | {"damp": 1e-9}}
SHARED_TRIALS = ({}, {"rate": 2.0}, {"rate": 0.5}, {"cycles": 4})  # the last is the first paper's cyclic rate
OWN_TRIALS = {  # as many for every criterion
    "magnitude": ({"rate": 4.0}, {"initial": 0.5}, {"rate": 2.0, "updates": 26}),
    "movement": ({"score_start": 0.5}, {"score_start": 2.0}, {"per_matrix": True}),
    "obs": ({"damp": 1e-9}, {"initial": 0.5}, {"rate": 2.0, "updates": 26}),
}
TRIALS = {name: tuple(TRIED_FROM[name] | tried for tried in (*SHARED_TRIALS, *own)) for name, own in OWN_TRIALS.items()}
TRIAL = {"trial_sentences": 2000, "trial_dev_sentences": 500, "pruning_epochs": 2.0, "sparse_epochs": 1.0, "share": 0.8}
# What keeps movement alive: each setting adds one thing to the one before it, the last one to "linear".
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
    "from the sizes": PRUNING | FOLLOWING | {"score_start": 1.0},
}
MOVEMENT_TRIAL = TRIAL | {"trial_sentences": 4000, "trial_dev_sentences": 1000}

# Notebook 04, see `studies.training`
STUDENTS = ("plain", "teacher", "longer", "unlabelled")
OPEN_TEXT = "open-text"  # and where a folder of text is given
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
HALF = 0.5  # share of heads and neurons that is gone in those of `HALVED`
HALVED = ("halved-q", "distil-halved-q")  # the teacher, the student
# → the setting of notebook 04
COMBINED_STUDENTS = {"distil-q": "teacher", "distil-text-q": "unlabelled", "distil-open-q": OPEN_TEXT}

# Notebook 07, see `studies.speed`
OPENED = [name for name in ALL if name not in SPARSE]  # those of ALL that are open
LENGTH = 128  # subwords, as in the paper
READERS = ("trained", "trained int8", "smaller int8")  # of text: the tuned baseline; in int8; a student in int8
TEXT_BATCH = 8

# Notebook 08, see `studies.compound` and `studies.upstream`
PATTERNS = {"unstructured": "1", "4-block": "4"}
SHALLOW = 0.3  # the first jump of sparsity where layers are gone, in the recipe of Kurtic et al.
PATIENCE = {"10 epochs 90%": 0.9, "10 epochs 97%": 0.97, "30 epochs 90%": 0.9}  # recipe and sparsity
HELD = ("magnitude", "obs")  # what chooses the weights that go at once before an epoch with masks held
THREE, ENGLISH = ("en", "es", "nl"), ("en",)  # the languages of the text that is pruned on
UPSTREAM = {  # criterion, sparsity, text
    "three-90": ("obs", 0.9, THREE),
    "english-90": ("obs", 0.9, ENGLISH),
    "three-97": ("obs", 0.97, THREE),
    "three-magnitude-90": ("magnitude", 0.9, THREE),
}
JUDGED = ("three-90", "english-90")  # a verdict hangs on these: two seeds
UPSTREAM_RECIPE = {"rate": 5e-4, "updates_an_epoch": 4, "rewinds_an_epoch": 2, "initial": 0.7, "damp": 1e-7}
# The last epoch of sparse transfer is the best, and the mean of checkpoints worse; its rival downstream hides no words.
TRANSFER = {"hardness": 1.0, "temperature": 5.5, "average_from": None, "masked_words": 0.0}
ABLATIONS = {  # what is varied of second order → the setting's name, and its values where no profile says them
    "gradients": ("fisher_gradients", None),
    "block": ("fisher_block", (1, 8, 32, 128)),
    "damping": ("damp", (1e-9, 1e-7, 1e-5, 1e-3)),
    "steps": ("steps", (1, 2, 4, 8)),  # recomputation on the way
    "matrix-free": ("fisher_gradients", None),  # no blocks at all, see `prune.mfac`
}
MOST_MATRIX_FREE = 64  # gradients: they all lie in memory
# Notebook 09, see `studies.crossed`: P prunes by gates, D is a student of every second layer, A trains adapters alone
ROWS = ("FT", "A", "LoRA", "D", "D+A")  # FT is full tuning
PRUNED_ROWS = {"P": "FT", "P+A": "A", "P+D": "D", "P+D+A": "D+A"}  # → the model that is pruned
LAYERWISE = {"hidden": 0.9, "temperature": 2.0}  # D: shares of hidden states and labels, as in CoFi
BOTTLENECK_RATE = {"similarity": 0.5}  # of the adapters' rate, where not all of it: there every pair got one grade
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
CROSSED = ("cross_sentences", "cross_scored", *AFTER, "country")  # settings of a profile that every row has
GATE_WARM_UP = 0.5  # share of the pruning in which the share asked for grows
# Of the multipliers, in rates of the gates. With one rate for both, as the authors have it in a training many times as
# long, the multipliers still wind up when the share is reached, and the gates end far past it.
MULTIPLIER_RATE = 5.0


# ---- What a study consists of ----


def runs(profile: Profile, corpus: str, *, changes: Mapping[str, object] | None = None) -> list[Run]:
    """The runs of a study, in an order in which those that others need come first.

    With `changes` of the profile, a run that comes out otherwise has them in its name and its settings (`varied`).
    """
    every = _runs(profile, corpus)
    return list(_varied(every, _runs(changed(profile, changes), corpus), dict(changes))) if changes else every


def missing(records: Iterable[dict], wanted: Iterable[Run]) -> list[str]:
    """What is wanted and not there: whole runs, and scores that other records of the same kind have, by language."""
    wanted, there = list(wanted), {record["run"]: record for record in records}
    absent = [run.name for run in wanted if run.name not in there]
    cells, by_kind = {}, {}
    for run in wanted:
        if record := there.get(run.name):
            scores = record["scores"] | record.get("further", {})
            cells[run.name] = [(language, split) for language, splits in scores.items() for split in splits]
            by_kind.setdefault((run.kind, run.settings["corpus"]), {}).update(dict.fromkeys(cells[run.name]))
    for run in wanted:
        if own := cells.get(run.name):
            known = by_kind[run.kind, run.settings["corpus"]]
            absent += [f"{run.name} ({' '.join(cell)})" for cell in known if cell not in own]
    return absent


def of_kind(records: Iterable[dict], *kinds: str) -> list[dict]:
    """The records of these kinds of runs."""
    return [record for record in records if record["settings"].get("kind") in kinds]


def _check(profile: Profile) -> None:
    """Refuse a profile that lists what is not known, or nothing where one at least is needed."""
    needed = ("backbones", "seeds", "sparsities", "students", "depths", "calibration_methods")
    for setting in (*needed, *("layer_choices",) * (len(profile.depths) > 1)):
        if not getattr(profile, setting):
            raise ValueError(f"{setting} of profile {profile.name} is empty. Give one at least.")
    sparse = [f"{100 * share:.0f}-q" for share in profile.sparsities]
    known = {"int8_graphs": GRAPHS, "compound": _compound_parts(profile), "speed_cases": [one.name for one in cases()]}
    known |= dict.fromkeys(("cross_rows", "pair_rows"), (*ROWS, *PRUNED_ROWS)) | {"pair_criteria": GRADUAL}
    known |= {"calibration_methods": RANGES, "layer_choices": CHOICES, "speed_runtimes": RUNTIMES}
    known |= {"left_out": (*sparse, *COMBINED_STUDENTS, *HALVED)}
    for setting, names in known.items():
        if unknown := sorted(set(getattr(profile, setting) or ()) - set(names)):
            raise ValueError(f"{setting} of profile {profile.name} has '{unknown[0]}'. Known are {', '.join(names)}.")


def _runs(profile: Profile, corpus: str) -> list[Run]:
    _check(profile)
    seeds = profile.pruning_seeds or profile.seeds
    dense = product((*profile.backbones, profile.teacher), (*profile.seeds, *seeds))
    first = baseline(profile, profile.backbones[0], corpus, profile.seeds[0])
    bases = [baseline(profile, name, corpus, seed) for seed in seeds for name in profile.backbones]
    teachers = [baseline(profile, profile.teacher, corpus, seed) for seed in seeds]
    every = [recipe(profile, first, name) for name in RECIPES if profile.trials]
    every += [baseline(profile, name, corpus, seed) for name, seed in dense]
    for base in bases:
        every += _structured(profile, base)
    if profile.trials:
        every += trials(profile, first)
    for base in bases:
        every += [gradual(profile, base, name, share) for share in profile.sparsities for name in GRADUAL]
        every += [gradual(profile, base, "obs", max(profile.sparsities), "linear")]
        every += [one_shot(profile, base, name) for name in AT_ONCE]
    for teacher in teachers:
        every += [gradual(profile, teacher, "obs", share, taught=True) for share in profile.sparsities]
        for name in profile.students:
            every += [student(profile, teacher, name, setting) for setting in student_settings(profile, name)]
        every += [self_taught(profile, teacher, number) for number in range(1, profile.self_taught + 1)]
    for base in _once([*bases, *teachers]):
        every += _graphs(profile, base)
    for teacher in teachers:
        every += [halved(profile, teacher, name) for name in combinations(profile) if name in HALVED]
        every += [combination(profile, teacher, name) for name in combinations(profile)]
    every += [shape(profile, case, corpus) for case in planned_cases(profile)]
    small = [name for name in ("distil-halved-q", "distil-q") if name in combinations(profile)]
    every += [_text(profile, first, teachers[0], reader, small) for reader in (READERS if small else READERS[:2])]
    backbone = profile.cross_backbone or profile.backbones[0]
    tuned = [baseline(profile, backbone, corpus, seed) for seed in seeds]
    if profile.cross_backbone:  # notebook 01 need not have it: FT is tuned on what all rows are tuned on
        tuned = [crossed(profile, base, base, "entities", "FT") for base in tuned]
    timed = _trained(profile, first, _once(every), min(seeds))
    return _once([*every, *timed, *tuned, *_compound(profile, teachers), *_crossed(profile, tuned)])


def _once(every: Sequence[Run]) -> list[Run]:
    """The runs without those that come again: several notebooks may name one."""
    runs = {run.name: run for run in every}
    if twice := [run.name for run in every if run != runs[run.name]]:
        raise ValueError(f"Two runs of the profile would be called {twice[0]}. Rename one's folder.")
    return list(runs.values())


def _trained(profile: Profile, base: Run, every: Sequence[Run], seed: int) -> list[Run]:
    """The models to time: of one seed, the notebooks in turns; and as many of the combined ones alone.

    A float graph of a baseline is as fast as the baseline.
    """
    by_notebook: dict[str, list[Run]] = {}
    for run in every:
        if run.settings.get("seed") == seed and run.kind != "halved" and run.settings.get("int8") != "float":
            timed = [trained(profile, base, run, leaf) for leaf in run.leaves]
            by_notebook.setdefault(run.name[:2], []).extend(one for one in timed if one.settings["runtimes"])
    turns = [run for turn in zip_longest(*(by_notebook[name] for name in sorted(by_notebook))) for run in turn if run]
    return _once([*by_notebook.get("06", [])[: profile.speed_models], *turns[: profile.speed_models]])


def _varied(every: Sequence[Run], otherwise: Sequence[Run], changes: dict) -> Iterator[Run]:
    """The runs of a changed profile; those that come out as before are the profile's own."""
    changed = {name: _short(changes[name]) for name in sorted(changes)}
    tag = "+" + ",".join(f"{name}={value}" for name, value in changed.items())
    before, names = {run.name: run for run in every}, {}
    for run in otherwise:
        if run.name in before and run.settings == before[run.name].settings and not names.keys() & run.needs.values():
            yield run
            continue
        names[run.name] = run.name + tag
        label = ", ".join([run.settings["label"], *(f"{name} {value}" for name, value in changed.items())])
        settings = run.settings | {"varied": changes, "label": label}
        if run.kind in ("trained", "use") and run.settings["model"] in names:  # it times what the other name has left
            model = names[run.settings["model"]]
            folder = run.settings["folder"].replace(run.settings["model"], model, 1)
            settings |= {"model": model, "folder": folder}
        needs = {part: names.get(need, need) for part, need in run.needs.items()}
        leaves = tuple(leaf.replace(run.name, names[run.name], 1) for leaf in run.leaves)
        yield Run(names[run.name], settings, needs, leaves)


def _short(value: object) -> str:
    """A changed setting as a part of a name."""
    if isinstance(value, (list, tuple)):
        return "-".join(map(_short, value))
    return re.sub(r"[^A-Za-z0-9.-]+", "-", format(value, "g") if isinstance(value, float) else str(value))


# ---- The runs of notebooks 01 to 07 ----


def baseline(profile: Profile, backbone: str, corpus: str, seed: int) -> Run:
    """A backbone tuned on English, scored on every language."""
    settings = {"kind": "baseline", "notebook": "01", "method": "baseline", "label": Path(backbone).name}
    settings |= {"backbone": backbone, "weights": fingerprint(backbone), "corpus": corpus, "seed": seed}
    return _leaving(
        baseline_name(backbone, corpus, seed), settings | _of(profile, "train_sentences", "eval_sentences", *TRAINING)
    )


def recipe(profile: Profile, base: Run, name: str) -> Run:
    """A backbone tuned in another way on a part of English."""
    settings = _about(base, "01", "recipe", trial=name) | RECIPE_TRIAL | RECIPE | RECIPES[name]
    return Run(_trial_name(base, "01", f"trial-{name}"), settings)


def _structured(profile: Profile, base: Run) -> Iterator[Run]:
    """Trajectories of what is removed step by step; and the subwords gone that no training text uses."""
    settings = _from(base, "02", "structured", importance_batch=IMPORTANCE_BATCH)
    settings |= _of(profile, "curve_sentences", "head_share", "importance_sentences", "recovery_sentences", *AFTER)
    steps = {share: share / profile.head_share for share in KEPT_SHARES}
    reached = [share for share, number in steps.items() if abs(number - round(number)) < 1e-6]
    for method in METHODS:
        name = named("02", method, *_where(base))
        leaves = tuple(kept_leaf(name, share) for share in reached)
        yield Run(name, settings | {"method": method}, {"base": base.name}, leaves)
    yield _leaving(named("02", "vocabulary", *_where(base)), _from(base, "02", "vocabulary"), base=base)


def gradual(
    profile: Profile, base: Run, criterion: str, share: float, schedule: str | None = None, *, taught: bool = False
) -> Run:
    """A baseline pruned while it trains on; a taught one by the recipe of Kurtic et al., its dense self as teacher."""
    schedule = schedule or SCHEDULE[criterion]
    settings = base.settings | _criterion(profile, criterion) | {"kind": "gradual", "share": share}
    settings |= {"schedule": schedule, **_while_pruned(profile)} | _of(profile, "pruning_epochs", "sparse_epochs")
    # a trajectory is scored before and after most mask updates, which would take longer than the training
    settings["curve_sentences"] = profile.curve_sentences and max(1, profile.curve_sentences // 4)
    if criterion != "movement":
        settings["updates"] = profile.pruning_updates
    if taught:  # the first jump must be less than what goes in all
        settings |= OBERT_TAUGHT | ({"initial": share * 7 / 9} if share <= OBERT_TAUGHT["initial"] else {})
    return _leaving(gradual_name(criterion, share, schedule, *_where(base), taught=taught), settings, base=base)


def one_shot(profile: Profile, base: Run, criterion: str) -> Run:
    """A baseline pruned at once, without training after it, at every sparsity that the profile asks for."""
    settings = base.settings | _criterion(profile, criterion, {"damp": PUBLISHED["obs"]["damp"]})  # nothing else counts
    settings |= {"kind": "one-shot", "points": [*([share, "1"] for share in profile.one_shot), list(TWO_OF_FOUR)]}
    name = named("03", f"oneshot-{criterion}", *_where(base))
    return Run(name, settings | _of(profile, "curve_sentences"), {"base": base.name})


def trials(profile: Profile, base: Run) -> list[Run]:
    """Short prunings whose English dev F1 is all that is looked at: `TRIALS` of every criterion, and `MOVEMENT`."""
    tried = [
        (f"trial-{criterion}-{number}", criterion, chosen | {"kind": "trial", "trial": number} | TRIAL)
        for criterion in CRITERIA
        for number, chosen in enumerate(TRIALS[criterion])
    ]
    for step, chosen in MOVEMENT.items():
        what, criterion = re.sub("[^a-z0-9]+", "-", step.lower()), "random" if step == "random" else "movement"
        tried.append((f"step-{what}", criterion, chosen | {"kind": "movement", "step": step} | MOVEMENT_TRIAL))
    every = []
    for what, criterion, chosen in tried:
        settings = base.settings | _while_pruned(profile) | {"schedule": SCHEDULE[criterion]}
        settings |= _criterion(profile, criterion, chosen)
        every.append(Run(_trial_name(base, "03", what), settings, {"base": base.name}))
    return every


def student_settings(profile: Profile, backbone: str) -> tuple[str, ...]:
    """The settings that a student is tuned in."""
    if backbone not in profile.unlabelled_students:
        return STUDENTS[:2]
    return (*STUDENTS, OPEN_TEXT) if profile.text_folder else STUDENTS


def student(profile: Profile, teacher: Run, backbone: str, setting: str) -> Run:
    """A smaller backbone tuned in one of the settings of notebook 04; `plain` is compared with the teacher too."""
    own = baseline(profile, backbone, teacher.settings["corpus"], teacher.settings["seed"])
    settings = _from(own, "04", "student", method="distillation", setting=setting, epochs=profile.distil_epochs)
    settings |= {"sees_target_text": setting in ("unlabelled", OPEN_TEXT)}
    settings |= {"teacher": profile.teacher, "teacher_weights": teacher.settings["weights"]}
    settings |= {"hardness": 0.0} if setting == "plain" else {**TEACHER, "teacher_epochs": profile.epochs}
    settings |= _of(profile, "unlabelled_sentences") if setting in ("longer", "unlabelled", OPEN_TEXT) else {}
    settings |= {"text": "folder"} if setting == OPEN_TEXT else {}
    return _leaving(student_name(backbone, setting, *_where(own)[1:]), settings, base=teacher)


def self_taught(profile: Profile, base: Run, number: int) -> Run:
    """The teacher's own backbone, taught on unlabelled text by the round before it, at first by `base`."""
    like, before = student(profile, base, profile.teacher, "unlabelled"), base
    settings = like.settings | {"setting": f"self-taught {number}", "by_confidence": True}
    if number > 1:
        before = self_taught(profile, base, number - 1)
        settings["teacher_digest"] = before.digest
    name = student_name(profile.teacher, f"self-taught-{number}", *_where(base)[1:])
    return _leaving(name, settings, base=base, teacher=before)


def graphs(profile: Profile) -> list[str]:
    """The graphs of notebook 05: those that the profile wants, and those that they and notebook 06 start from."""
    wanted = set(profile.int8_graphs or GRAPHS)
    wanted |= {"floor-all"} if "floor" in wanted else set()
    wanted |= {TAUGHT_GRAPHS[combination_format(name)] for name in combinations(profile)}
    needed = {need for name in wanted for need in _graph_needs(name)}
    return [name for name in GRAPHS if name in wanted | needed]


def _graphs(profile: Profile, base: Run) -> list[Run]:
    """A baseline as a graph in the forms of `GRAPHS`, each scored itself; and kinds of int8 word by word."""
    made = {name: graph(profile, base, name) for name in graphs(profile)}
    compared = {name: run for name, run in made.items() if name in ("float", "longer", *INT8_KINDS)}
    settings = _from(base, "05", "changed words", graphs={name: run.settings for name, run in compared.items()})
    settings |= _of(profile, "int8_sentences")
    needs = {"base": base.name} | {name: run.name for name, run in compared.items()}
    return [*made.values(), Run(named("05", "changed-words", *_where(base)), settings, needs)]


def graph(profile: Profile, base: Run, name: str) -> Run:
    """A baseline as a graph in one of the forms of `GRAPHS`, scored itself."""
    kind, form = GRAPHS[name]
    settings = _from(base, "05", "graph", method="quantization", graph=name, int8=kind, format=form)
    settings |= {"runtime": "onnxruntime"} | _of(profile, "int8_sentences")
    if kind == "static":
        settings |= _of(profile, "calibration_sentences", "calibration_methods")
    if kind == "without data":
        settings |= {**_of(profile, "calibration_sentences"), "random_length": RANDOM_LENGTH}
    if name in TRAINED_GRAPHS:
        settings |= _learning_int8(profile)
    if name in TAUGHT_GRAPHS.values():
        settings |= TEACHER
    if name in FLOORS:
        settings |= {**_of(profile, "floor_sentences", "floor_layers"), "floor_languages": FLOORS[name]}
        settings |= {"floor_points": FLOOR_POINTS, "floor_most": FLOOR_MAPS}
    needs = {need: named("05", need, *_where(base)) for need in _graph_needs(name)}
    run = named("05", name, *_where(base))
    return Run(run, settings, {"base": base.name, **needs}, (run,))


def combinations(profile: Profile) -> list[str]:
    """The combined models of notebook 06."""
    known = student_settings(profile, profile.students[0])
    students = [name for name, setting in COMBINED_STUDENTS.items() if setting in known]
    names = [*(f"{100 * share:.0f}-q" for share in profile.sparsities), *students, *HALVED]
    return [name for name in names if name not in profile.left_out]


def combination_format(name: str) -> str:
    """The format of a combined model's graph; the sparse ones are for DeepSparse, which wants its own."""
    return "qdq" if name in (*COMBINED_STUDENTS, *HALVED) else "qoperator"


def halved(profile: Profile, teacher: Run, name: str) -> Run:
    """The float model of one of `HALVED`: half of heads and neurons and the unused subwords gone, tuned and taught."""
    start = teacher if name == "halved-q" else student(profile, teacher, profile.students[0], "teacher")
    settings = _from(start, "06", "halved", removed=HALF, importance_batch=IMPORTANCE_BATCH) | TEACHER
    settings |= _of(profile, "head_share", "importance_sentences", "distil_epochs", *AFTER)
    return _leaving(named("06", name.removesuffix("-q"), *_where(teacher)), settings, base=teacher, start=start)


def combination(profile: Profile, teacher: Run, name: str) -> Run:
    """A small or sparse model, a teacher, and int8 on top of both; `int8` is what int8 costs alone."""
    if name in COMBINED_STUDENTS:
        start = student(profile, teacher, profile.students[0], COMBINED_STUDENTS[name])
    elif name in HALVED:
        start = halved(profile, teacher, name)
    else:
        share = next(share for share in profile.sparsities if name == f"{100 * share:.0f}-q")
        start = gradual(profile, teacher, "obs", share, taught=True)
    form = combination_format(name)
    settings = _from(teacher, "06", "combination", combination=name, start=start.settings, format=form)
    settings |= _of(profile, "distil_epochs", "int8_sentences") | _learning_int8(profile) | TEACHER
    needs = {"base": teacher, "start": start, "float": graph(profile, teacher, "float")}
    if name not in HALVED:
        needs["int8"] = graph(profile, teacher, TAUGHT_GRAPHS[form])
    return _leaving(named("06", name, *_where(teacher)), settings, **needs)


def planned_cases(profile: Profile) -> list[Case]:
    """The random shapes that the profile times, in their order: those that one of its runtimes is for."""
    wanted = [case for case in cases() if profile.speed_cases is None or case.name in profile.speed_cases]
    return [case for case in wanted if _asked(profile, case.runtimes)]


def shape(profile: Profile, case: Case, corpus: str) -> Run:
    """A random model of one of the paper's shapes, timed beside the dense one."""
    own_batches = case.batches if profile.speed_cases is None else None
    settings = _timing(profile, corpus, "shape", case.name) | {"case": case.name, "zeros": case.sparsity}
    settings |= {name: getattr(case, name) for name in ("shape", "depth", "pattern", "heads", "uniform", "int8")}
    settings |= {"runtimes": _asked(profile, case.runtimes), "batches": list(own_batches or profile.speed_batches)}
    return Run(speed_name(case.name, corpus), settings | {"deepest": profile.speed_layers})


def _text(profile: Profile, base: Run, teacher: Run, reader: str, small: Sequence[str]) -> Run:
    """Real sentences, read by one of `READERS` in all runtimes; the smallest student is the one that is halved."""
    # DeepSparse wants another form of int8, and of each shape an engine: float, and padded text, are enough.
    wanted = ALL if reader == "trained" else [*OPENED, *TORCH]
    settings = _timing(profile, base.settings["corpus"], "text", reader) | {"model": reader, "text_batch": TEXT_BATCH}
    settings |= {"text_sentences": profile.speed_sentences, "runtimes": _asked(profile, wanted)}
    name = speed_name(f"text {reader}", base.settings["corpus"])
    needs = {"base": base.name}
    if reader == "smaller int8":
        needs["model"] = combination(profile, teacher, small[0]).name
        settings["combination"] = small[0]
    return Run(name, settings | {"beside": "base"}, needs)


def trained(profile: Profile, base: Run, run: Run, leaf: str) -> Run:
    """A model that a run has left, timed beside the dense baseline, in the runtimes that run its form fast."""
    form, corpus = run.settings.get("format", "float"), run.settings["corpus"]
    fast = {"float": ALL, "qoperator": SPARSE, "dynamic": OPENED}.get(form, [*OPENED, *TORCH])
    settings = _timing(profile, corpus, "trained", run.settings["label"], runtimes=_asked(profile, fast))
    settings |= {"model": run.name, "folder": leaf, "digest": run.digest, "trained_in": run.settings["notebook"]}
    settings |= {"batches": list(profile.speed_batches), "scored_sentences": profile.int8_sentences}
    return Run(speed_name(f"trained {leaf}", corpus), settings, {"model": run.name, "base": base.name})


# ---- The runs of notebook 08 ----


def compound_models(profile: Profile) -> dict[str, tuple[int, float, str]]:
    """Every compound model of a profile by its name: layers, sparsity, form."""
    models = {}
    for depth in profile.depths:
        models |= {f"{depth} layers {form}": (depth, 0.0, form) for form in ("dense", "int8")}
        for share, form in product(profile.sparsities, (*PATTERNS, "4-block int8")):
            models[f"{depth} layers {share:.0%} {form}"] = (depth, share, form)
    return models


def _compound_parts(profile: Profile) -> list[str]:
    held, upstream = (f"2:4 {criterion}" for criterion in HELD), (f"upstream {name}" for name in UPSTREAM)
    return [*compound_models(profile), *PATIENCE, *held, *upstream, *(f"ablation {line}" for line in ABLATIONS)]


def _compound(profile: Profile, teachers: Sequence[Run]) -> list[Run]:
    """From the first seed's teacher; what a verdict on pruning upstream needs, from two."""
    base, models = teachers[0], compound_models(profile)
    wanted = _compound_parts(profile) if profile.compound is None else profile.compound
    every = [_dropped(profile, base, depth, how) for depth in profile.depths[1:] for how in profile.layer_choices]
    made = {name: _model(profile, base, *models[name]) for name in wanted if name in models}
    for name in made:
        depth, share, form = models[name]
        every += [_model(profile, base, depth, share, _float(form)), made[name]]
    every += [_patient(profile, base, name) for name in PATIENCE if name in wanted and profile.depths[1:]]
    every += [_held(profile, base, criterion) for criterion in HELD if f"2:4 {criterion}" in wanted]
    for name in (name for name in UPSTREAM if f"upstream {name}" in wanted):
        for teacher in teachers[: 2 if name in JUDGED else 1]:
            every += _upstream(profile, teacher, name)
    every += [_ablation(profile, base, line) for line in ABLATIONS if f"ablation {line}" in wanted]
    return [*every, *(_compound_speed(profile, base, run, name) for name, run in made.items())]


def _float(form: str) -> str:
    """What an int8 form is made from; another form is its own."""
    return form.replace("int8", "").strip() or "dense"


def _dropped(profile: Profile, base: Run, depth: int, choice: str) -> Run:
    """A baseline with fewer layers, tuned with its whole self as teacher."""
    settings = _from(base, "08", "layers", layers=depth, choice=choice, share=0.0) | TEACHER
    settings |= _of(profile, "curve_sentences", "importance_sentences", "distil_epochs", *AFTER)
    return _leaving(named("08", f"{depth}-layers-{choice}", *_where(base)), settings, base=base)


def _model(profile: Profile, base: Run, depth: int, share: float, form: str) -> Run:
    """One of `compound_models`: the whole ones are runs of other notebooks where these have them."""
    start = base if depth == profile.depths[0] else _dropped(profile, base, depth, profile.layer_choices[0])
    what = f"{depth}-layers-{100 * share:.0f}-{form.replace(' ', '-')}"
    if "int8" in form:
        start = _model(profile, base, depth, share, _float(form))
        settings = _from(base, "08", "compound int8", layers=depth, share=share, embeddings=True, combination=form)
        settings |= _learning_int8(profile) | TEACHER
        settings |= {"int8_sentences": None, "format": "qoperator", "start": start.settings}
        run = _leaving(named("08", what, *_where(base)), settings, base=base, start=start)
        return replace(run, leaves=(run.name, f"{run.name}-qdq"))
    if not share:
        return start
    if start is base and form == "unstructured":
        return gradual(profile, base, "obs", share, taught=True)
    return _pruned(profile, base, start, what, share, layers=depth, pattern=PATTERNS[form])


def _patient(profile: Profile, base: Run, name: str) -> Run:
    """The second depth pruned by a recipe of Kurtic et al. as it is printed, or by a share of its epochs."""
    depth, recipe = profile.depths[1], name.rpartition(" ")[0]
    start = _dropped(profile, base, depth, profile.layer_choices[0])
    printed = {**OBERT[recipe], "recipe": recipe, "batch_size": profile.batch_size, "layers": depth, "pattern": "1"}
    printed |= {name: printed[name] * profile.recipe_epochs for name in ("pruning_epochs", "sparse_epochs")}
    return _pruned(profile, base, start, name.replace(" ", "-").removesuffix("%"), PATIENCE[name], **printed)


def _pruned(profile: Profile, base: Run, start: Run, what: str, share: float, **changed) -> Run:
    """A run as in notebook 03 with a teacher, from another model or in another pattern."""
    like = gradual(profile, base, "obs", share, taught=True)
    about = {"kind": "compound", "notebook": "08", "start": start.settings}
    if profile.compound_updates:
        about["updates"] = profile.compound_updates
    if start is not base:
        about["initial"] = min(SHALLOW, like.settings["initial"])
    return _leaving(named("08", what, *_where(base)), like.settings | about | changed, base=base, start=start)


def _held(profile: Profile, base: Run, criterion: str) -> Run:
    """Half of every four weights gone at once, then an epoch of training with masks held and the dense teacher."""
    share, pattern = TWO_OF_FOUR
    settings = base.settings | _criterion(profile, criterion, PUBLISHED[criterion]) | _of(profile, *AFTER) | TEACHER
    settings |= {"kind": "held", "notebook": "08", "share": share, "pattern": pattern, "held_epochs": 1}
    return _leaving(named("08", f"2-of-4-{criterion}", *_where(base)), settings, base=base)


def _upstream(profile: Profile, base: Run, name: str) -> tuple[Run, Run]:
    """The teacher's backbone pruned on plain text before it is tuned; then tuned on English, masks held, and taught."""
    criterion, share, languages = UPSTREAM[name]
    settings = _about(base, "08", "upstream", method=criterion, upstream=name, share=share) | UPSTREAM_RECIPE
    settings |= {"languages": languages, "text": "folder" if profile.text_folder else "corpora"}
    settings |= _of(profile, "upstream_subwords", "upstream_epochs", "upstream_batch")
    settings |= _of(profile, "fisher_gradients", "fisher_block") if criterion == "obs" else {}
    start = _leaving(named("08", f"upstream-{name}", *_where(base)), settings)
    about = {"epochs": profile.distil_epochs, "upstream": name, "share": share, "start": settings}
    settings = _from(base, "08", "transfer", **TRANSFER, **about)
    return start, _leaving(named("08", f"transfer-{name}", *_where(base)), settings, base=base, start=start)


def _ablation(profile: Profile, base: Run, line: str) -> Run:
    """Second order at once, with other values of one of its settings."""
    varied, values = ABLATIONS[line]
    most = MOST_MATRIX_FREE if line == "matrix-free" else max(profile.ablation_gradients)
    values = values or [number for number in profile.ablation_gradients if number <= most]
    settings = one_shot(profile, base, "obs").settings | {"kind": "ablation", "notebook": "08", "line": line}
    settings |= {"varies": varied, "points": [[share, "1", n] for n in values for share in profile.ablation_shares]}
    if line == "matrix-free":
        settings["method"] = line
    return Run(named("08", f"ablation-{line}", *_where(base)), settings, {"base": base.name})


def _compound_speed(profile: Profile, base: Run, model: Run, name: str) -> Run:
    """What a compound model weighs, and its speed beside the dense baseline, in every runtime that runs its forms."""
    depth, share, form = compound_models(profile)[name]
    by_form = [[*SPARSE, SKIPPING], [*OPENED, TORCH[0]]] if "int8" in form else [ALL]
    settings = _timing(profile, base.settings["corpus"], "compound speed", base.settings["label"], notebook="08")
    settings |= {"model": name, "layers": depth, "share": share, "form": form, "calls": 1}
    settings |= {"seed": base.settings["seed"], "batches": list(profile.compound_batches), "digest": model.digest}
    settings |= {"runtimes": [_asked(profile, names) for names in by_form], "scored_sentences": profile.int8_sentences}
    what = f"speed-{name.replace(' ', '-').replace('%', '')}"
    return Run(named("08", what, *_where(base)), settings, {"base": base.name, "model": model.name})


# ---- The runs of notebook 09 ----


def _crossed(profile: Profile, bases: Sequence[Run]) -> list[Run]:
    """Further seeds at the first share alone, and on entities alone."""
    first, *further = bases
    every = _truth_table(profile, first, first, profile.cross_shares, profile.cross_rows)
    if profile.pairs:
        tuned = crossed(profile, first, first, "similarity", "FT")
        every += _truth_table(profile, first, tuned, profile.cross_shares, profile.pair_rows)
        for pruned in (tuned, first) if first.kind == "crossed" else (tuned,):
            every += _sparse(profile, pruned)
        int8 = {"method": "int8", "row": "int8", "calibration": profile.calibration_methods[0]}
        settings = _from(tuned, "09", "pairs int8", **int8, **_of(profile, "calibration_sentences"))
        every.append(_leaving(crossed_name("similarity", "int8", *_where(tuned)), settings, base=tuned))
    every += [_searched(profile, first, times) for times in profile.speedups]
    # Speed is one of shapes, which similarity has as well, and single zeros make nothing faster in ONNX Runtime.
    timed = [run for run in every if run.settings.get("task") != "similarity" and run.kind != "crossed sparse"]
    models = _once([first, *(run for run in timed if run.kind == "gated"), *timed])[: profile.used_models]
    for base in further:
        every += _truth_table(profile, base, base, profile.cross_shares[:1], profile.cross_rows)
    return [*every, *(_use(profile, first, run) for run in models)]


def _sparse(profile: Profile, tuned: Run) -> Iterator[Run]:
    """A row FT pruned weight by weight, as notebook 03 prunes its baselines."""
    for share, criterion in product(profile.sparsities, profile.pair_criteria):
        settings = gradual(profile, tuned, criterion, share).settings
        settings |= {"kind": "crossed sparse", "notebook": "09", "row": criterion}
        yield _leaving(crossed_name(settings["task"], criterion, *_where(tuned), share=share), settings, base=tuned)


def _truth_table(
    profile: Profile, base: Run, tuned: Run, shares: Sequence[float], wanted: Sequence[str] | None = None
) -> list[Run]:
    """All rows of a task, or those wanted and what they begin with; `tuned` is the row FT."""
    task, wanted = tuned.settings.get("task", "entities"), wanted or (*ROWS, *PRUNED_ROWS)
    starts = {row: tuned if row == "FT" else crossed(profile, base, tuned, task, row) for row in ROWS}
    needed = {PRUNED_ROWS.get(row, row) for row in wanted} | {"FT"}
    every = [start for row, start in starts.items() if row in needed]
    for row, share in product(PRUNED_ROWS, shares):
        if row in wanted:
            every.append(_gated(profile, tuned, starts[PRUNED_ROWS[row]], row, share))
    return every


def crossed(profile: Profile, base: Run, tuned: Run, task: str, row: str) -> Run:
    """A row of the truth table without P; `tuned`, the row FT, teaches D. Adapters leave the pretrained model alone."""
    settings = _from(base, "09", "crossed", method=row, task=task, row=row)
    settings |= _of(profile, *CROSSED) | {"epochs": profile.cross_epochs or profile.epochs}
    settings["label_smoothing"] = 0.0 if task == "similarity" or "D" in row else profile.label_smoothing
    settings["masked_words"] = 0.0 if task == "similarity" else profile.masked_words
    if "D" in row:
        settings |= {**LAYERWISE, "teacher_digest": tuned.digest, "frozen": 0.0}  # the embeddings stay the teacher's
    if row == "LoRA" or "A" in row.split("+"):
        rate = profile.adapter_rate * (1.0 if row == "LoRA" else BOTTLENECK_RATE.get(task, 1.0))
        rates = {"learning_rate": rate, "rate_after": rate, "head_rate": 1.0}
        settings |= {**rates, "frozen": None, "frozen_after": None, "average_from": None}
        settings["epochs"] = profile.adapter_epochs or settings["epochs"]
        settings |= LORA if row == "LoRA" else _of(profile, "adapter_width")
    return _leaving(crossed_name(task, row, *_where(base)), settings, **({} if row == "FT" else {"base": tuned}))


def _gated(profile: Profile, tuned: Run, start: Run, row: str, share: float) -> Run:
    """A row of the truth table with P: gates close on a model of the row without it, which is then tuned on."""
    settings = {"task": "entities"} | _of(profile, *CROSSED) | _from(start, "09", "gated", method=f"{row} {share:.0%}")
    settings |= _of(profile, "gate_epochs", "gate_after", "gate_rate")
    settings |= {"row": row, "share": share, "gate_warm_up": GATE_WARM_UP, "multiplier_rate": MULTIPLIER_RATE}
    name = crossed_name(settings["task"], row, *_where(tuned), share=share)
    return _leaving(name, settings, base=tuned, start=start)


def _searched(profile: Profile, base: Run, times: float) -> Run:
    """Heads and neurons taken out of a baseline for a speed-up that is asked for, without training."""
    settings = _timing(profile, base.settings["corpus"], "searched", base.settings["label"])
    settings |= _from(base, "09", "searched", method=f"mask search {times:g}x", task="entities", row="search")
    settings |= _of(profile, "importance_sentences", "cross_scored", "country")
    settings |= {"times": times, "batches": [max(profile.speed_batches)]}
    return _leaving(named("09", f"searched-{times:g}x", *_where(base)), settings, base=base)


def _use(profile: Profile, base: Run, run: Run) -> Run:
    """A model of notebook 09 at work: its speed beside the dense one's, and what reading takes."""
    settings = _timing(profile, run.settings["corpus"], "use", run.settings["label"], notebook="09")
    settings |= {"model": run.name, "folder": run.leaves[0], "digest": run.digest}
    settings |= {"task": run.settings.get("task", "entities"), "batches": [max(profile.speed_batches)]}
    settings |= _of(profile, "used_sentences", "country")
    return Run(f"09-use-{run.name.removeprefix('09-')}", settings, {"model": run.name, "base": base.name})


# ---- Names ----


def named(notebook: str, what: str, backbone: str, corpus: str, seed: int) -> str:
    """The run of a notebook that makes this of a backbone."""
    return f"{notebook}-{what}-{Path(backbone).name}-{corpus}-seed{seed}"


def baseline_name(backbone: str, corpus: str, seed: int) -> str:
    """The run of a baseline."""
    return f"01-{Path(backbone).name}-{corpus}-seed{seed}"


def kept_leaf(run: str, share: float) -> str:
    """The folder of the recovered model of a trajectory at one of `KEPT_SHARES`."""
    return f"{run}-{100 * share:.0f}"


def gradual_name(criterion: str, share: float, schedule: str, *where, taught: bool = False) -> str:
    """The run of a gradually pruned model."""
    return named("03", f"{criterion}-{100 * share:.0f}-{schedule}{'-taught' * taught}", *where)


def student_name(student: str, setting: str, corpus: str, seed: int) -> str:
    """The run of a student in one setting."""
    return f"04-{Path(student).name}-{setting}-{corpus}-seed{seed}"


def crossed_name(task: str, row: str, *where, share: float | None = None) -> str:
    """The run of a row of notebook 09, and of a share that went."""
    what = row.replace("+", "-").lower() + ("" if share is None else f"-{100 * share:.0f}")
    return named("09", f"{task}-{what}", *where)


def speed_name(what: str, corpus: str) -> str:
    """The run that times a shape, a text or a trained model."""
    return "07-" + re.sub(r"[^A-Za-z0-9.+,=]+", "-", what.replace("%", "")) + f"-{corpus}"


def _trial_name(base: Run, notebook: str, what: str) -> str:
    return f"{notebook}-{what}-{Path(base.settings['backbone']).name}-{base.settings['corpus']}"


def _where(base: Run) -> tuple[str, str, int]:
    return base.settings["backbone"], base.settings["corpus"], base.settings["seed"]


# ---- Settings ----


def _of(profile: Profile, *names: str) -> dict:
    return {name: getattr(profile, name) for name in names}


def _from(base: Run, notebook: str, kind: str, **further) -> dict:
    """The settings of a run that goes on from another one."""
    return base.settings | {"kind": kind, "notebook": notebook, "method": kind} | further


def _about(base: Run, notebook: str, kind: str, **further) -> dict:
    """The settings of a run that begins at a baseline's backbone."""
    same = ("label", "backbone", "weights", "corpus", "seed", "max_length")
    return {"kind": kind, "notebook": notebook, "method": kind} | {key: base.settings[key] for key in same} | further


def _leaving(name: str, settings: dict, **needs: Run) -> Run:
    """A run that leaves one model."""
    return Run(name, settings, {part: run.name for part, run in needs.items()}, (name,))


def _criterion(profile: Profile, criterion: str, chosen: dict | None = None) -> dict:
    """What the settings say of a criterion: how it prunes, and for second order what its Fisher is made of."""
    chosen = chosen or (PUBLISHED if profile.published else CHOSEN)[criterion]
    settings = {"notebook": "03", "method": criterion, **chosen}
    if criterion == "obs":
        return settings | _of(profile, "fisher_gradients", "fisher_batch", "fisher_block")
    return {name: value for name, value in settings.items() if name != "damp"}


def _while_pruned(profile: Profile) -> dict:
    """How a model is trained while single weights go."""
    return {"pattern": "1", "batch_size": profile.pruning_batch or profile.batch_size, **_of(profile, *AFTER)}


def _learning_int8(profile: Profile) -> dict:
    return _of(profile, "qat_sentences", "qat_epochs", *AFTER) | {"qat_rate": QAT_RATE, "runtime": "onnxruntime"}


def _graph_needs(name: str) -> tuple[str, ...]:
    if name == "float":
        return ()
    return ("float", "static") if name in (*FLOORS, "static-qoperator", "static-embeddings") else ("float",)


def _timing(profile: Profile, corpus: str, kind: str, label: str, **further) -> dict:
    about = {"kind": kind, "notebook": "07", "method": kind, "label": label, "corpus": corpus, "length": LENGTH}
    how = {"measured_seconds": "speed_seconds", "turns": "speed_turns", "calls": "speed_calls"}
    return about | {name: getattr(profile, setting) for name, setting in how.items()} | further


def _asked(profile: Profile, wanted: Sequence[str]) -> list[str]:
    """Those of the runtimes wanted that the profile measures; settings follow a runtime's name after a colon."""
    return [name for name in wanted if name.split(":")[0] in profile.speed_runtimes]
