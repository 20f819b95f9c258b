"""What a model is, in words that a reader of a figure has without the notebooks."""

from mmalib.plan import SCHEDULE
from mmalib.reports import distillation, quantization, unstructured

FAMILIES = {  # kind of run → how a legend calls it
    "baseline": "dense",
    "student": "student",
    "structured": "heads or neurons gone",
    "gradual": "zeros",
    "graph": "int8",
    "combination": "combined",
}
GONE = {"heads": "heads", "uniform": "heads and neurons"}
COMBINED = {
    "distil-q": "taught, int8",
    "distil-text-q": "taught on es+nl training text*, int8",
    "distil-open-q": "taught on open text*, int8",
    "halved-q": "half of heads and neurons, subwords cut, int8",
    "distil-halved-q": "taught, half of heads and neurons, subwords cut, int8",
}


def family(settings: dict) -> str:
    """What is compared with what in a figure; a float graph is the dense model in another form."""
    return FAMILIES.get("baseline" if settings.get("int8") == "float" else settings["kind"], "others")


def words(settings: dict, folder: str) -> str:
    """What a run with these settings has left in a folder; the folder's name where there are no words for it."""
    kind, label = settings["kind"], settings["label"]
    if kind == "baseline":
        return f"{label}, dense"
    if kind == "student":
        return f"{label}, {distillation.NAMES[settings['setting']]}"
    if kind == "structured":
        return f"{label}, {folder.rpartition('-')[2]}% of {GONE[settings['method']]} gone"
    if kind == "gradual":
        how = ", taught" * ("hardness" in settings)
        how += f", {settings['schedule']}" * (settings["schedule"] != SCHEDULE[settings["method"]])
        return f"{label}, {settings['share']:.0%} zeros by {unstructured.called(settings)}{how}"
    if kind == "graph":
        name = quantization.NAMES[settings["graph"]].lower().replace("qat", "QAT").replace("qo", "QO")
        return f"{label}, {name if settings['int8'] == 'float' else f'int8, {name}'}"
    if kind == "combination":
        name, start = settings["combination"], settings["start"]["label"]
        return f"{start}, {COMBINED.get(name) or name.replace('-q', '% zeros, taught, int8')}"
    return folder
