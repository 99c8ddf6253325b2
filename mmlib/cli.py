"""The command `mmlib`: thin over the library, and slow to import it, so that `mmlib --help` is quick."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import importlib
import inspect
import json
import os
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmlib

PROFILES = ("smoke", "ablate", "desk", "paper")
STAGES = {
    "pretrain": "stage 1: the encoder, by global and local contrast or another objective, without labels",
    "attend": "stage 2: self-supervised attention under progressive masking, without labels",
    "finetune": "stage 3: a decoder that writes LaTeX, with labels",
}
BENCHMARKS = ("reading", "steps", "training", "pipeline", "rivals", "growth", "learning")
# Errors whose message is made for the user: one line instead of a traceback.
DOCUMENTED = {"InkError", "LatexError", "DataError", "PackError", "RunError", "FileNotFoundError", "PermissionError"}


def field_options(kind: Any) -> dict[str, Any]:
    """argparse's options for a field of type bool, int, float, str, tuples of these, or None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (arm for arm in typing.get_args(kind) if arm is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        return {"type": json.loads, "metavar": "JSON"}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        each = typing.get_args(kind)
        return {"nargs": "+" if each[-1] is ... else len(each)} | field_options(each[0])
    return {"type": kind, "metavar": kind.__name__.upper()}


def add_config_options(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """One option a field of a stage's dataclass, with the comment behind the field as its help."""
    parser.add_argument(
        "--profile", choices=PROFILES, default="smoke", help="the preset to start from (%(default)s)"
    )
    comments = dict(re.findall(r"^ {4}(\w+)\s*:[^#\n]*#[ ]*(.+)$", inspect.getsource(config), re.MULTILINE))
    kinds = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        name = "--" + field.name.replace("_", "-")
        help_text = comments.get(field.name, "").replace("%", "%%")
        parser.add_argument(
            name, default=argparse.SUPPRESS, help=help_text, **field_options(kinds[field.name])
        )


def config_from(args: argparse.Namespace, config: type[Any]) -> Any:
    """The stage's dataclass: the profile's preset with the options that were given."""
    names = {field.name for field in dataclasses.fields(config)}
    given = {name: value for name, value in vars(args).items() if name in names}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    base = config.preset(args.profile)
    for name, value in given.items():
        if isinstance(value, dict):  # a part of the configuration: what is named changes, the rest stays
            given[name] = _replaced(getattr(base, name), value, name)
        elif dataclasses.is_dataclass(getattr(base, name)):
            raise _wrong(f"{name} is {value!r}, and must be a JSON object with the fields that change")
    return config.preset(args.profile, **given)


def _replaced(part: Any, changes: dict[str, Any], where: str) -> Any:
    """A nested dataclass with some fields changed; lists become tuples. RunError for an unknown field or a wrong type."""
    kinds, new = typing.get_type_hints(type(part)), {}
    for name, value in changes.items():
        if name not in kinds:
            raise _wrong(f"{where} has no field {name!r}; it has {', '.join(kinds)}")
        if isinstance(value, dict) and dataclasses.is_dataclass(getattr(part, name)):
            new[name] = _replaced(getattr(part, name), value, f"{where}.{name}")
        elif not _fits(value, kinds[name]):
            raise _wrong(f"{where}.{name} is {value!r}, which is no {getattr(kinds[name], '__name__', kinds[name])}")
        else:
            new[name] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(part, **new)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a field's type."""
    arms, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arm) for arm in arms)
    if origin is tuple:
        each = [arms[0]] * len(value) if isinstance(value, list) and arms[-1] is ... else arms
        return isinstance(value, list) and len(value) == len(each) and all(map(_fits, value, each))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))


def _wrong(text: str) -> Exception:
    from mmlib.store.files import RunError

    return RunError(f"configuration: {text}")


def run_stage(args: argparse.Namespace) -> None:
    """Train one stage, or go on with it, or find it done."""
    from mmlib.train.loop import Paused

    stage = importlib.import_module(f"mmlib.train.{args.command}")
    try:
        run = stage.run(config_from(args, stage.Config), args.profile, args.max_minutes, args.max_steps)
        said: Any = f"{run.name}: done {run.summary}"
        if args.command == "finetune":
            said += f"\nread with: mmlib recognize --reader {run.name} FILE"
    except Paused as pause:
        said = pause
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
        print(said)


def prepare(args: argparse.Namespace) -> None:
    """Read, check and pack data sets; print their reports."""
    from mmlib.data.prepare import prepare

    options = {"datasets": args.datasets} if args.datasets else {}
    prepare(**options, out_dir=args.out)


def ablate(args: argparse.Namespace) -> None:
    """Train and read the cells of the grid that have no record, or say which they are."""
    from mmlib.study.grid import COMPARED, PROFILE, ablate, cells, packs, plan
    from mmlib.train.loop import Paused

    names = args.arms or (() if args.profile == PROFILE else COMPARED)
    chosen = cells(names, args.seeds, args.labels)
    if args.prepare:
        for path in packs(args.dataset):
            print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
    elif args.plan:
        print(plan(chosen, args.dataset, args.profile))
    else:
        try:
            ablate(chosen, args.dataset, args.profile, args.max_minutes)
        except Paused as pause:
            print(pause)


def collect(args: argparse.Namespace) -> None:
    """Add the finished runs that have records to the tables of results."""
    from mmlib.study.results import collect

    print("new in the tables:", ", ".join(collect(args.folder)) or "nothing")


def benchmark(args: argparse.Namespace) -> None:
    """Measure how fast it is."""
    from scripts.benchmark import run_all

    run_all(args.sections)


def evaluate(args: argparse.Namespace) -> None:
    """Score a recogniser."""
    from mmlib.study.evaluate import evaluate

    options = {name: getattr(args, name) for name in ("beam", "export_lgeval", "limit", "arm", "profile", "without",
                                                   "occlusion", "removal", "sizes")}
    print(evaluate(args.weights, args.dataset, args.split, **options))


def probe(args: argparse.Namespace) -> None:
    """Probe the frozen encoder of a run."""
    from mmlib.store.run import Run
    from mmlib.study.probe import probe

    found = probe(Run.load(args.run), args.dataset, args.random, args.arm)
    for row in found.summary["rows"]:
        print("{metric:24} {value:7.4f}  [{low:.4f}, {high:.4f}]  n = {n}".format(**row))
    print(f"{found.name}: done in {found.environment['minutes']} min")


def attention(args: argparse.Namespace) -> None:
    """Measure where the attention of stage 2 lies."""
    from mmlib.store.run import Run
    from mmlib.study.attention_report import measured

    for row in measured(Run.load(args.run), args.dataset, args.record):
        print("{arm:16} {metric:12} {part:20} {value:7.3f}  [{low:.3f}, {high:.3f}]  n = {n}".format(**row))


def recognize(args: argparse.Namespace) -> int:
    """Print the hypotheses for each file, and a line for each that cannot be read; 2 if there is one."""
    from mmlib.data.errors import existing_file

    there = [file for file in args.files if _told(existing_file, file)]
    if not there:  # before torch is imported: a mistyped name should not take seconds
        return 2
    from mmlib.read.reader import Reader, recognize

    reader, read = Reader.load(args.reader), 0
    for file in there:
        found = _told(recognize, file, args.beam, reader, None, args.sizes)
        read += found is not None
        for hypothesis in (found or ())[: args.best]:
            print(f"{file}\t{hypothesis.score:.3f}\t{hypothesis.latex}", flush=True)
    return 0 if read == len(args.files) else 2


def _told(function: Any, *arguments: Any) -> Any:
    """What a function returns, or None where it fails with a documented error, which is printed."""
    try:
        return function(*arguments)
    except Exception as error:
        if not _documented(error):
            raise
        print(f"mmlib: {error}", file=sys.stderr, flush=True)
        return None


def _some(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _size(text: str) -> float:
    """A picture's size relative to a recogniser's own, for argparse: a quarter to four times."""
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0.25 <= size <= 4:
        raise argparse.ArgumentTypeError(f"{text!r} is no size from 0.25 to 4")
    return size


def _documented(error: Exception) -> bool:
    """Whether an error's message is made for the user: ours by kind, or a full disk."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or not DOCUMENTED.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def publish(args: argparse.Namespace) -> None:
    """Make a run the recogniser that ships, or write its card anew."""
    from mmlib.study.publish import publish, write_card

    if args.run:
        print(publish(args.run))
    print(write_card())


def reproduce(args: argparse.Namespace) -> None:
    """Execute notebooks."""
    from scripts.reproduce import reproduce

    reproduce(args.notebooks, dict(args.parameters), args.out, args.keep)


def figures(args: argparse.Namespace) -> None:
    """Draw the diagrams, then execute the notebook of figures and tables."""
    from mmlib.show.diagrams import write

    write()
    reproduce(args)


def docs(args: argparse.Namespace) -> None:
    """Write the site."""
    from scripts.site import build

    print(build(args.out))


def verify(args: argparse.Namespace) -> None:
    """Hold the results against each other; RunError with every fault found."""
    from mmlib.store.files import RunError
    from mmlib.study.verify import verify

    if faults := verify():
        raise RunError("\n  ".join([f"{len(faults)} things do not agree:", *faults]))
    print("records, runs and tables agree")


def build_parser(stage: str | None = None) -> argparse.ArgumentParser:
    """The parser. Finding a stage's options imports torch, so they are there for the `stage` named alone."""
    parser = argparse.ArgumentParser("mmlib", description=mmlib.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mmlib {mmlib.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str, where: Any = commands) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = where.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(function=function)
        return sub

    data = commands.add_parser("data", help="data sets").add_subparsers(required=True, metavar="COMMAND")
    sub = command(
        "prepare", prepare, "read, check and pack data sets, and report what was skipped and why", data
    )
    sub.add_argument("datasets", nargs="*", metavar="DATASET", help="default: all of CROHME")
    sub.add_argument("--out", type=Path, help="folder for the packs")

    for name, text in STAGES.items():
        sub = command(name, run_stage, text)
        sub.add_argument("--max-minutes", type=float, help="pause after so long; the schedule stays as it is")
        sub.add_argument("--max-steps", type=int, help="pause after so many more steps")
        if name == stage:
            add_config_options(sub, importlib.import_module(f"mmlib.train.{name}").Config)

    sizes = ("at which the ink is drawn, of the recogniser's own: read at each, every hypothesis scored by all. 0.86 1 1.14 "
             "reads better than 1, in three times the time")
    sub = command("evaluate", evaluate, "score a recogniser on a data set")
    sub.add_argument("weights", nargs="?", help="weights, run folder or run's name; default: the recogniser that ships")
    sub.add_argument("--dataset", default="synthetic")
    sub.add_argument("--split", default="test")
    sub.add_argument("--beam", type=_some, default=5)
    sub.add_argument("--limit", type=_some, help="only the first so many expressions")
    sub.add_argument(
        "--export-lgeval", type=Path, metavar="DIR", help="write predictions and truth for LgEval"
    )

    sub.add_argument("--arm", help="write records under this arm's name; without it nothing is recorded")
    sub.add_argument("--profile", choices=PROFILES, default="desk", help="of the records")
    sub.add_argument("--without", nargs="*", default=(), choices=("gamma", "slots"), help="uses of attention to switch off")
    sub.add_argument("--occlusion", type=float, default=0.0, metavar="SHARE", help="of ink length to mask visibly")
    sub.add_argument("--removal", action="store_true", help="remove it silently instead")
    sub.add_argument("--sizes", nargs="+", type=_size, default=(1.0,), metavar="SIZE", help=sizes)

    sub = command("probe", probe, "what the frozen encoder of a run knows of symbols and their relations")
    sub.add_argument("run", type=Path, help="a finished run's folder")
    sub.add_argument("--dataset", help="whose symbols; default: what the run was trained on")
    sub.add_argument("--random", type=int, metavar="SEED", help="random weights by this seed in place of the run's")
    sub.add_argument("--arm", help="write records under this arm's name; without it nothing is recorded")

    sub = command("attention", attention, "on which classes of symbols the attention of stage 2 lies, beside controls")
    sub.add_argument("run", type=Path, help="a finished run's folder, of attend")
    sub.add_argument("--dataset", help="whose validation split; default: what the run was trained on")
    sub.add_argument("--record", action="store_true", help="write records")

    sub = command("ablate", ablate, "the grid of ablations: arms at equal cost, one factor at a time, read on validation")
    sub.add_argument("arms", nargs="*", metavar="ARM", help="arms, or factors for all of theirs; default: the whole grid")
    sub.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED")
    sub.add_argument("--labels", nargs="+", type=float, default=[1.0], metavar="SHARE", help="shares of the training labels")
    sub.add_argument("--dataset", default="crohme", choices=("crohme", "synthetic"))
    sub.add_argument("--profile", choices=("smoke", "ablate", "desk", "paper"), default="ablate",
                     help="presets, and so the budget; another than ablate reads the tests, too, and by default three arms")
    sub.add_argument("--plan", action="store_true", help="say which cells are done and how long the others will take")
    sub.add_argument("--prepare", action="store_true", help="only make the packs that it reads, and name them")
    sub.add_argument("--max-minutes", type=float, help="pause after so long; the same command goes on")

    sub = command("collect", collect, "add finished runs that have records to the tables of results")
    sub.add_argument("folder", nargs="?", type=Path, help="results of another machine; default: these")

    sub = command("benchmark", benchmark, "measure speed and memory, and keep the results")
    sub.add_argument("sections", nargs="*", metavar="SECTION", choices=[*BENCHMARKS, []], help=", ".join(BENCHMARKS))

    sub = command("recognize", recognize, "LaTeX for pictures (PNG, JPEG, BMP) and InkML files, one formula each")
    sub.description = (f"{sub.description}. Prints the file, the score and the LaTeX. The score is the mean log-probability a "
                       "token, written from the left and from the right: near 0 is sure, below about -0.3 most readings have an "
                       "error.")
    sub.add_argument("files", nargs="+", metavar="FILE")
    sub.add_argument("--reader", metavar="RUN", help="weights, run folder or run's name; default: the recogniser that ships")
    sub.add_argument("--beam", type=_some, default=5, help="hypotheses kept in each direction; 1 is quickest (%(default)s)")
    sub.add_argument("--sizes", nargs="+", type=_size, default=(1.0,), metavar="SIZE", help=sizes)
    sub.add_argument("--best", type=_some, default=1,
                     help="hypotheses to print for each file, of those that the beam has found (%(default)s)")

    sub = command("publish", publish, "make a fine-tuned run the recogniser that ships, and write its model card")
    sub.add_argument("run", nargs="?", help="the run's folder; without it only the card is written anew")

    command("verify", verify, "derive every table from the results again, and name what does not agree")

    for name, function, text in (
        ("reproduce", reproduce, "execute the notebooks in order"),
        ("figures", figures, "redraw figures and tables"),
    ):
        sub = command(name, function, text)
        if name == "reproduce":
            sub.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="such as 02; default: all")
        else:
            sub.set_defaults(notebooks=["06"])
        sub.add_argument(
            "-p", dest="parameters", action="append", nargs=2, default=[], metavar=("NAME", "VALUE")
        )
        sub.add_argument("--out", type=Path, help="folder for the executed copies (results/executed)")
        sub.add_argument("--keep", action="store_true", help="let the executed copy be the notebook that is committed")

    sub = command("docs", docs, "the README and the notebooks, as they are, as pages that open offline")
    sub.add_argument("--out", type=Path, help="folder for them (site)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 for success, 2 for a wrong call or a documented error, 130 when interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(argv[0] if argv and argv[0] in STAGES else None).parse_args(argv)
    try:
        return args.function(args) or 0
    except KeyboardInterrupt:
        print("mmlib: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        if not _documented(error):
            raise
        print(f"mmlib: {error}", file=sys.stderr)
        return 2
