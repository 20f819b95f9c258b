"""The models that the package carries: int8 graphs that tag text right after the install, offline.

    models/NAME/onnx/model_quantized.onnx.gz   the graph, compressed
    models/NAME/tokenizer.json.gz, config.json, tokenizer_config.json, mmalib.json, README.md
    models/SHA256SUMS

They are made by `python -m mmalib ship` and unpacked at their first use into a folder as Optimum and transformers.js
expect it.
"""

import gzip
import json
import timeit
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mmalib import runtimes
from mmalib.model import cache
from mmalib.records import machine

MODELS = Path(__file__).resolve().parents[1] / "models"
TEXT = (  # invented, as long as sentences of news are
    "Yesterday the mayor of Bristol, Helen Carter, opened the new offices of Norwood Shipping near the harbour.",
    "El presidente de la empresa Textil Aragón, Julio Vega, viajará el lunes a Zaragoza con dos ministros.",
    "Volgens Anke de Boer van het Instituut voor Waterbouw stijgt de zee bij Vlissingen sneller dan in Oostende.",
)
WORDS = sum(len(text.split()) for text in TEXT) // len(TEXT)  # a sentence
NAMES = {  # the first is the default
    "fast": "6 layers, has read unlabelled text in six more languages",
    "faithful": "12 layers, tuned on English alone, best in English, Spanish and Dutch",
}
WEIGHTS = "model.safetensors"


def there() -> list[str]:
    """The names of the models that this copy of the package carries."""
    return [name for name in NAMES if (MODELS / name / "config.json").is_file()]


def locate(model: str | Path | None = None) -> Path:
    """The folder of a model, ready to be loaded: of a shipped one by its name, by default the first, or any other."""
    name = str(model or next(iter(there() or NAMES)))
    if name in there():
        return unpacked(name)
    folder = Path(name)
    files = ["config.json", "tokenizer.json", "tokenizer_config.json"]
    lost = [file for file in files if not (folder / file).is_file()]
    if not (folder / WEIGHTS).is_file() and runtimes.graph_in(folder) is None:
        lost = [" or ".join((*runtimes.PLACES, WEIGHTS)), *lost]
    if lost:
        what = f"is missing {', '.join(lost)}" if folder.is_dir() else "is neither a folder nor a shipped model"
        carried = ", ".join(there()) or "none (python -m mmalib ship makes them)"
        wanted = f"the folder of a model, or the name of one that this copy of mmalib carries: {carried}"
        raise ValueError(f"{name} {what}. Give {wanted}.")
    return folder.resolve()


def unpacked(name: str) -> Path:
    """The folder of a shipped model, unpacked at the first call."""

    def fill(fresh: Path, files: Iterable[str]) -> None:
        for path in files:
            target, content = fresh / Path(path).relative_to(name), (MODELS / path).read_bytes()
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".gz":
                target, content = target.with_suffix(""), gzip.decompress(content)
            target.write_bytes(content)

    return cache.unpacked(name, MODELS, fill)


def described() -> Iterator[str]:
    """What `python -m mmalib models` prints."""
    from mmalib.use.ner import NER

    if not there():
        yield "This copy of mmalib carries no models; python -m mmalib ship makes them."
    for name in there():
        folder = locate(name)
        about = json.loads((folder / "mmalib.json").read_text(encoding="utf-8"))
        size = sum(path.stat().st_size for path in (MODELS / name).rglob("*") if path.is_file())
        scores = about["scores"]["after"].items()
        ner = NER.load(name)
        yield f"{name:<9} {NAMES[name]}; from the run {about['run']}"
        yield f"  size    {size / 1e6:.1f} MB in the package, {about['megabytes']:.1f} MB unpacked in {folder}"
        yield "  test F1 in onnxruntime " + ", ".join(f"{language} {splits['test']:.3f}" for language, splits in scores)
        how = f"{ner.runtime}, threads: {machine.threads()}"
        yield f"  here    {speed(ner):.0f} sentences a second of about {WORDS} words in {how}"


def speed(tag: Callable[[list[str]], list]) -> float:
    """Sentences a second, 96 at once."""
    texts = [*TEXT] * 32
    tag(texts)  # the first call may still prepare something
    times, seconds = timeit.Timer(lambda: tag(texts)).autorange()
    return times * len(texts) / seconds
