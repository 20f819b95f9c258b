"""The command line, thin: read arguments, call one function, turn a user's mistake into one sentence.

A command's help is the docstring of its function. Imports happen where they are used, so that `--help` answers at once.
"""

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from itertools import tee
from pathlib import Path

import mmalib

EXAMPLES = """examples:
  python -m mmalib study                     the quick study: two CPU cores, offline, 25 minutes
  python -m mmalib study --profile paper     the paper's own scale; wants a GPU
  MMALIB_DATA=path/to/conll python -m mmalib study
  python -m mmalib figures                   draw tables and figures again, without training
  python -m mmalib predict "Angela Merkel besuchte Madrid."
                                             find names in text with the shipped model
  python -m mmalib score fast my.conll       precision, recall and F1 on data of your own
  python -m mmalib bench FOLDER --runtime onnxruntime,openvino --batch 1,8
                                             how fast is an exported model here?

A study that was stopped or killed goes on where it was when it is started again.
Exit codes: 0 all well, 1 a notebook failed or results are missing, 2 a mistake in what was asked,
130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code = options.command(options)
        sys.stdout.flush()  # here, where a closed pipe can be told
        return code
    except BrokenPipeError:  # whoever read has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(options.command is _study)  # a study does not go on without its reader
    except (ValueError, OSError) as error:
        print(f"mmalib: {error}", file=sys.stderr)
    except RuntimeError as error:
        if "home directory" not in str(error):
            raise
        print(f"mmalib: {error} Set HOME, or name folders (MMALIB_CACHE, MMALIB_DATA) without ~.", file=sys.stderr)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] == "mmalib":
            raise
        what = f"this needs the package {error.name}, which the light install leaves out"
        print(f"mmalib: {what}: pip install '.[study]' in a checkout, or make.", file=sys.stderr)
    return 2


def _study(options: argparse.Namespace) -> int:
    """Run the notebooks in order, without a browser.

    They leave records, tables, figures and executed notebooks in RUNS/PROFILE. Runs that are already recorded there are
    skipped.
    """
    from mmalib.app import batch
    from mmalib.studies import workers

    folder = options.notebooks or batch.NOTEBOOKS
    for name, value in ((workers.WORKERS, options.workers), (workers.CLUSTER, options.ray)):
        if value is not None:
            os.environ[name] = str(value)  # the kernels inherit it
    return batch.run(options.profile, options.only, options.fresh, options.runs, folder)


def _figures(options: argparse.Namespace) -> int:
    """Draw every table and figure again from the records, without training.

    Those of the repository (figures/, and the tables in README.md), or with --profile those of RUNS/PROFILE.
    """
    from mmalib import reports
    from mmalib.app import batch, publish

    formats = options.format.split(",") if options.format else reports.FORMATS
    reports.check(formats)
    if options.publish and not options.profile:
        raise ValueError("--publish takes the records of a profile: say which with --profile.")
    if options.profile and not options.publish:
        missing, written = batch.redraw(options.profile, options.runs, formats)
    else:
        missing = publish.take(options.profile, options.runs) if options.publish else []
        written = publish.redraw(formats)
    if missing:
        print("Not run yet, and missing in what was written:", *missing, sep="\n  ")
    print("Written:", *written, sep="\n  ")
    return 1 if missing else 0


def _predict(options: argparse.Namespace) -> int:
    """Find persons, organisations, locations and other names in text.

    A model that the package carries, that the study has left, or that was exported reads it. Prints a line for every
    name (type, place of its characters, probability, text), and an empty line after each text.
    """
    from mmalib.use import ner

    if file := next(filter(os.path.exists, options.text), None):
        raise ValueError(f"{file} is no text but a path. For the lines of a file: python -m mmalib predict < {file}")
    if not options.text and sys.stdin is None:
        raise ValueError("There is neither text nor a standard input to read it from. Give a text.")
    typing = not options.text and sys.stdin.isatty()
    asked, texts = tee(options.text or ner.lines(sys.stdin.buffer))
    answers = ner.NER.load(options.model, batch_size=1 if typing else None)(asked)
    for entities, text in zip(answers, texts, strict=True):
        if options.json:
            print(json.dumps({"text": text, "entities": entities}, ensure_ascii=False), flush=typing)
            continue
        for one in entities:
            print(f"{one['entity_group']:4}  {one['start']}:{one['end']}  {one['score']:.2f}  {one['word']}")
        print(flush=typing)
    return 0


def _models(options: argparse.Namespace) -> int:
    """List the models that the package carries: size, F1 by language, and their speed on this machine."""
    from mmalib.use import shipped

    print(*shipped.described(), sep="\n")
    return 0


def _score(options: argparse.Namespace) -> int:
    """Score a model on CoNLL files of your own.

    Precision, recall and F1 with 95% intervals, over all entities and by type, on files with a word a line, 2 to 4
    columns, the entity last (IOB1 or IOB2). Types that the model does not know are named and left out, unless --map
    gives them another name.
    """
    from mmalib.app import score

    return score.run(options.model, options.files, options.map)


def _ship(options: argparse.Namespace) -> int:
    """Put the best models of a study into the package (mmalib/models), with their cards.

    Without names, the records choose. Needs a checkout and the corpora.
    """
    from mmalib.app import ship

    return ship.run(options.profile, options.runs, {"fast": options.fast, "faithful": options.faithful})


def _bench(options: argparse.Namespace) -> int:
    """Measure samples a second of models (shipped, or folders with a model.onnx), each in turns with the baseline.

    Prints a table and leaves a record of each model and runtime in RUNS/bench/records. Run it on an otherwise idle
    machine.
    """
    from mmalib.app import bench
    from mmalib.records import machine
    from mmalib.use import shipped

    try:
        batches = [int(size) for size in options.batch.split(",")]
    except ValueError:
        wanted = "whole numbers with commas between them, as in 1,4,8"
        raise ValueError(f"--batch is '{options.batch}'. Give {wanted}.") from None
    how = {"batches": batches, "length": options.length, "seconds": options.seconds}
    how["threads"] = machine.cores() if options.threads is None else options.threads
    records = options.runs / "bench" / "records"
    named = [*options.folders, options.baseline]
    *folders, base = [shipped.unpacked(str(one)) if str(one) in shipped.there() else one for one in named]
    return bench.run(folders, options.runtime.split(","), base, records, **how)


def _doctor(options: argparse.Namespace) -> int:
    """Say what this machine can run: Python, torch, GPU, CPU features, runtimes, data, disk."""
    from mmalib.app import doctor

    print(*doctor.lines(), sep="\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmalib",
        description="What happens to the languages that a multilingual model was never tuned on, "
        "when it is made fast enough for a CPU? This runs the study and draws its results.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {mmalib.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int]) -> Callable:
        about = inspect.getdoc(run)
        added = commands.add_parser(name, help=about.splitlines()[0], description=about)
        added.set_defaults(command=run)
        return added.add_argument

    profile = {"default": "quick", "metavar": "NAME"}
    runs = {"type": Path, "default": Path("runs"), "metavar": "DIR"}
    runs["help"] = "folder for everything that is made (default: runs)"
    model = "'fast' or 'faithful' (shipped), or a folder, as in runs/quick/models"

    takes = command("study", _study)
    sizes = "quick (default; 25 minutes on two cores), small (days on two cores, or a GPU), paper (a GPU)"
    sizes += ', or your own: a file like {"like": "small", "backbones": ["FOLDER"], "seeds": [1]}'
    takes("--profile", **profile, help=f"size of the study: {sizes}")
    takes("--runs", **runs)
    takes("--only", metavar="01,03", help="only the notebooks with these numbers")
    takes("--fresh", action="store_true", help="first delete what this profile made before, and start over")
    takes("--notebooks", type=Path, metavar="DIR", help="folder of the notebooks (default: the checkout's)")
    takes("--workers", type=int, metavar="N", help="make N runs side by side (wants the extra [ray])")
    takes("--ray", metavar="ADDRESS", help="make the runs on this Ray cluster, or 'auto'; all nodes must see --runs")

    takes = command("figures", _figures)
    takes("--profile", metavar="NAME", help="draw what RUNS/PROFILE has, and list what is missing")
    takes("--runs", **runs)
    formats = "svg, png, pdf for figures; csv, md, tex (booktabs) for tables (default: svg,png,csv,md)"
    takes("--format", metavar="NAMES", help=f"with commas between: {formats}")
    takes("--publish", action="store_true", help="first put the records of RUNS/PROFILE into figures/records")

    takes = command("predict", _predict)
    takes("--model", metavar="MODEL", help=f"{model} (default: fast)")
    takes("text", nargs="*", metavar="TEXT", help="in quotes each; default: the lines of the standard input, in UTF-8")
    takes("--json", action="store_true", help="a line of JSON for every text instead")

    command("models", _models)

    takes = command("score", _score)
    takes("model", metavar="MODEL", help=model)
    takes("files", nargs="+", type=Path, metavar="FILE")
    mapped = "call a type otherwise, in the files and in what the model says; O leaves it out; may come several times"
    takes("--map", action="append", default=[], metavar="MISC=O", help=mapped)

    takes = command("ship", _ship)
    takes("--profile", **profile, help="the study (default: quick)")
    takes("--runs", **runs)
    for name in ("fast", "faithful"):
        takes(f"--{name}", metavar="RUN", help=f"the run to ship as '{name}'")

    takes = command("bench", _bench)
    takes("folders", nargs="+", type=Path, metavar="FOLDER", help="or 'fast', 'faithful'")
    names = "onnxruntime (default), openvino, deepsparse, torch, with commas between; settings follow a name"
    example = "openvino:precision=bf16:hint=throughput:shapes=fixed"
    takes("--runtime", default="onnxruntime", metavar="NAMES", help=f"{names}, as in {example}")
    takes("--batch", default="1", metavar="1,4,8", help="samples at once (default: 1)")
    takes("--length", type=int, default=128, metavar="N", help="subwords a sample (default: 128)")
    takes("--threads", type=int, metavar="N", help="default: every core that may be used")
    takes("--seconds", type=float, default=5.0, metavar="S", help="for each row (default: 5)")
    takes("--baseline", type=Path, metavar="FOLDER", help="what ONNX Runtime runs beside it (default: the first)")
    takes("--runs", **runs)

    command("doctor", _doctor)
    return parser
