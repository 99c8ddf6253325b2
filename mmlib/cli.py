"""The command `mmlib`: thin over the library.

A command is a function whose signature gives its options; tyro reads it. What a command needs is
imported when it runs, so that `mmlib --help` is quick.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, arg

import mmlib

Profile = Literal["smoke", "study", "desk", "flagship", "paper"]
Dataset = Literal["crohme", "synthetic"]
# Errors whose message is made for the user: one line instead of a traceback. By name, since
# importing them would import torch.
DOCUMENTED = {
    "UsageError", "InkError", "LatexError", "DataError", "PackError", "RunError", "FormatError",
    "FileNotFoundError", "PermissionError",
}
STOPPED = 75  # exit code of a training that a signal paused: sysexits.h's "try again"
STAGES = {
    "pretrain": "Stage 1: the encoder learns without labels, by contrast or another objective.",
    "attend": "Stage 2: attention learns without labels, under progressive masking.",
    "finetune": "Stage 3: a decoder learns to write LaTeX, with labels.",
}


class UsageError(ValueError):
    """A command was called with a value that it cannot take."""


def prepare(datasets: Positional[tuple[str, ...]] = (), /, *, out: Path | None = None) -> None:
    """Read, check and pack data sets, and report what was skipped and why.

    Args:
        datasets: names, or paths of archives or folders; by default all of CROHME.
        out: folder for the packs.
    """
    from mmlib.data.crohme import DATASETS
    from mmlib.data.prepare import prepare

    prepare(datasets=datasets or tuple(DATASETS), out_dir=out)


def evaluate(
    weights: Positional[str | None] = None, /, *, dataset: str = "synthetic", split: str = "test",
    beam: int = 5, limit: int | None = None, export_lgeval: Path | None = None,
    arm: str | None = None, profile: Profile = "desk",
    without: tuple[Literal["gamma", "slots"], ...] = (), occlusion: float = 0.0,
    removal: bool = False, sizes: tuple[float, ...] = (1.0,)
) -> None:
    """Score a recogniser on a data set.

    Args:
        weights: weights, run folder or run's name; by default the recogniser that ships.
        limit: only the first so many expressions.
        export_lgeval: folder for predictions and truth in LgEval's layout.
        arm: write records under this arm's name; without it nothing is recorded.
        profile: of the records.
        without: uses of attention to switch off.
        occlusion: share of ink length under a visible mask.
        removal: remove that ink silently instead.
        sizes: at which the ink is drawn, of the recogniser's own: read at each, every hypothesis
            scored by all. 0.86 1 1.14 reads better than 1, in three times the time.
    """
    from mmlib.study.evaluate import Config, evaluate

    _check_reading(beam, sizes)
    _check(limit is None or limit > 0, f"--limit is {limit}, and must be at least 1")
    config = Config(dataset, split, beam, True, without, limit, occlusion, removal, sizes)
    print(evaluate(weights, config, arm=arm, profile=profile, export_lgeval=export_lgeval))


def probe(
    run: Positional[Path], /, *, dataset: str | None = None, random: int | None = None,
    arm: str | None = None
) -> None:
    """Measure what a run's frozen encoder knows of symbols and their relations.

    Args:
        run: a finished run's name or folder.
        dataset: whose symbols; by default what the run was trained on.
        random: a seed of random weights in place of the run's.
        arm: write records under this arm's name; without it nothing is recorded.
    """
    from mmlib.store.run import Run
    from mmlib.study.probe import probe

    found = probe(Run.load(run), dataset, random, arm)
    for row in found.summary["rows"]:
        print("{metric:24} {value:7.4f}  [{low:.4f}, {high:.4f}]  n = {n}".format(**row))
    print(f"{found.name}: done in {found.environment['minutes']} min")


def attention(
    run: Positional[Path], /, *, dataset: str | None = None, record: bool = False
) -> None:
    """Measure on which classes of symbols the attention of stage 2 lies, beside controls.

    Args:
        run: a finished run's name or folder, of attend.
        dataset: whose validation split; by default what the run was trained on.
        record: write records.
    """
    from mmlib.store.run import Run
    from mmlib.study.attention_report import measured

    line = "{arm:16} {metric:12} {part:20} {value:7.3f}  [{low:.3f}, {high:.3f}]  n = {n}"
    for row in measured(Run.load(run), dataset, record):
        print(line.format(**row))


def study(
    arms: Positional[tuple[str, ...]] = (), /, *, seeds: tuple[int, ...] = (0,),
    labels: tuple[float, ...] = (0.1,), dataset: Dataset = "crohme", profile: Profile = "study",
    plan: bool = False, prepare: bool = False, tests: bool = False,
    max_minutes: float | None = None,
) -> int:
    """Train and read the arms of the study at equal cost.

    Args:
        arms: names of arms, or of questions for all of theirs; by default those of the hypotheses.
        labels: shares of the training labels.
        profile: presets, and so the budget.
        plan: only say which cells are done, and how many pictures the others will take.
        prepare: only make the packs that it reads, and name them.
        tests: read the tests, too, with beam 5: for headline runs alone.
        max_minutes: pause after so long; the same command goes on.
    """
    from mmlib.study import conduct
    from mmlib.train.loop import Paused, Stopped

    chosen = conduct.cells(arms or ("hypotheses",), seeds, labels)
    if prepare:
        for path in conduct.packs(dataset):
            print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
    elif plan:
        print(conduct.plan(chosen, dataset, profile))
    else:
        try:
            conduct.conduct(chosen, dataset, profile, tests, max_minutes)
        except Paused as pause:
            print(pause)
            return STOPPED * isinstance(pause, Stopped)
    return 0


def collect(folder: Positional[Path | None] = None, /) -> None:
    """Add finished runs that have records to the tables of results.

    Args:
        folder: results of another machine; by default these.
    """
    from mmlib.study.results import collect

    print("new in the tables:", ", ".join(collect(folder)) or "nothing")


def recognize(
    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE ...", help_behavior_hint="")],
    /, *, reader: str | None = None, beam: int = 5,
    sizes: tuple[float, ...] = (1.0,), best: int = 1, rows: bool = False, photo: bool = False,
    no_photo: bool = False, show: Path | None = None,
    format: Literal["latex", "mathml", "sympy"] = "latex", plain: bool = False
) -> int:
    """Print the LaTeX of pictures and InkML files, one formula each.

    Prints the file, the score, the LaTeX and the confidence. The score is the mean log-probability
    per token, written from the left and from the right: 0 is best. The confidence is the chance
    that the whole reading is right. Below 0.50 it is marked as doubtful; tokens that are themselves
    below 0.50 are named, if there are any. The exit status is 1 where a picture holds nothing to
    read, 2 where a file failed.

    Args:
        files: pictures or InkML files; several in one call save the start-up of each.
        reader: weights, run folder or run's name; by default the recogniser that ships.
        beam: hypotheses kept in each direction; 1 is quickest.
        sizes: at which the ink is drawn, of the recogniser's own; 0.86 1 1.14 reads better.
        best: hypotheses to print for each file, of those that the beam has found.
        rows: several formulas in a picture; prints left, top, right, bottom of each in pixels, too.
        photo: clean every picture as a photograph; by default what is found in it decides.
        no_photo: take every picture as it is.
        show: a folder in which to save what the reader saw.
        format: MathML, which Word takes, or SymPy in place of LaTeX; needs the extra "formats".
        plain: print the formula alone, one per line.
    """
    from mmlib.data.errors import NothingError, existing_file
    from mmlib.read.formats import written

    _check(bool(files), "recognize needs the name of a file")
    _check_reading(beam, sizes)
    _check(best > 0, f"--best is {best}, and must be at least 1")
    _check(not (photo and no_photo), "--photo and --no-photo exclude each other")
    there = [file for file in files if _status(existing_file, file) == 0]
    if not there:  # before torch is imported: a mistyped name should not take seconds
        return 2
    from mmlib.read.reader import Reader
    from mmlib.read.reader import recognize as find

    cleaned = False if no_photo else photo or None

    def read(file: str) -> None:
        found: list[Any] = list(find(file, beam, loaded, cleaned, sizes, rows=rows, show=show))
        for row in found if rows else [None]:
            readings = row.readings if row else found
            if not readings:
                raise NothingError(f"{file}: nothing in it reads as a formula")
            if row and row.touching:
                print(f"mmlib: {file}: the formula at {row.box} may be several rows that touch",
                      file=sys.stderr)
            place = [file, ",".join(map(str, row.box))] if row else [file]
            for one in readings[:best]:
                formula = written(one.latex, format)
                said = [formula] if plain else [*place, f"{one.score:.3f}", formula]
                if not plain and one.confidence is not None:
                    doubt = f" doubtful: {' '.join(one.doubts)}".removesuffix(": ")
                    said.append(f"{one.confidence:.2f}{doubt * one.doubtful}")
                print(*said, sep="\t", flush=True)

    loaded = Reader.load(reader)
    statuses = [_status(read, file) for file in there]
    return max(statuses) if len(there) == len(files) else 2


def convert(
    latex: Positional[str], /, *, format: Literal["mathml", "sympy"] = "mathml"
) -> None:
    """Print LaTeX, such as a corrected reading, as MathML or SymPy; needs the extra `formats`.

    Args:
        latex: in quotes; after "--" where it begins with a minus.
        format: MathML, which Word takes when pasted as text, or SymPy.
    """
    from mmlib.read.formats import written

    print(written(latex, format))


def publish(run: Positional[str | None] = None, /) -> None:
    """Make a fine-tuned run the recogniser that ships, and fill the tables of its card.

    Args:
        run: the run's folder; without it only the tables are filled anew.
    """
    from mmlib.study import tables
    from mmlib.study.publish import publish

    if run:
        print(publish(run))
    tables.fill({name: tables.table(name) for name in ("recogniser", "recogniser_rates")})


def export(
    folder: Positional[Path], /, *, weights: str | None = None, full: bool = False
) -> None:
    """Write a recogniser as ONNX, with its vocabulary and card; needs the extra `export`.

    Args:
        folder: of the files.
        weights: weights, run folder or run's name; by default the recogniser that ships.
        full: leave out the graphs in eight bits.
    """
    from mmlib.read.export import export
    from mmlib.read.reader import Reader

    for name, size in export(Reader.load(weights), folder, small=not full).items():
        print(f"{size / 2**20:7.2f} MiB  {folder / name}")


def verify() -> None:
    """Derive every table from the results again, and name what does not agree."""
    from mmlib.store.files import RunError
    from mmlib.study.verify import verify

    if faults := verify():
        raise RunError("\n  ".join([f"{len(faults)} things do not agree:", *faults]))
    print("records, runs and tables agree")


COMMANDS: dict[str, Callable[..., int | None]] = {
    "data prepare": prepare, "evaluate": evaluate, "probe": probe, "attention": attention,
    "study": study, "collect": collect, "recognize": recognize, "convert": convert,
    "publish": publish, "export": export, "verify": verify,
}


def stage_options(name: str, argv: Sequence[str]) -> Any:
    """Options of a stage: its `config`, `profile`, `max_minutes`, `max_steps`.

    The profile's preset gives the defaults of the configuration's fields.
    """
    from mmlib.train.profiles import PROFILES, preset

    # The profile gives the defaults that tyro shows, so it is read before all else.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--profile", default="smoke")
    profile = first.parse_known_args(argv)[0].profile
    base = preset(name, profile if profile in PROFILES else "smoke")

    def option(kind: Any, text: str) -> Any:
        return Annotated[kind, arg(help=text)]

    minutes = option(float | None, "pause after so long; the schedule stays as it is")
    steps = option(int | None, "pause after so many more steps")
    kind = make_dataclass("Options", [
        ("config", Annotated[type(base), arg(name="")], field(default=base)),
        ("profile", option(Profile, "the preset that gives the defaults"), field(default="smoke")),
        ("max_minutes", minutes, field(default=None)),
        ("max_steps", steps, field(default=None)),
    ])
    return tyro.cli(kind, args=argv, prog=f"mmlib {name}", description=STAGES[name])


def run_stage(name: str, argv: Sequence[str]) -> int:
    """Train one stage and those that it starts from, or go on with them, or find them done."""
    options = stage_options(name, argv)
    from mmlib.train.launch import launch
    from mmlib.train.loop import Paused, Stopped

    stage, code = importlib.import_module(f"mmlib.train.{name}"), 0
    limits = {"max_minutes": options.max_minutes, "max_steps": options.max_steps}
    try:
        run = launch(stage, options.config, options.profile, **limits)
        said = f"{run.name}: done {run.summary}"
        if name == "finetune":
            said += f"\nread with: mmlib recognize --reader {run.name} FILE"
    except Paused as pause:
        said, code = str(pause), STOPPED * isinstance(pause, Stopped)
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
        print(said)
    return code


def _check(holds: bool, text: str) -> None:
    if not holds:
        raise UsageError(text)


def _check_reading(beam: int, sizes: Sequence[float]) -> None:
    _check(beam > 0, f"--beam is {beam}, and must be at least 1")
    for size in sizes:
        _check(0.25 <= size <= 4, f"--sizes has {size:g}, and must lie from 0.25 to 4")


def _status(work: Callable[[str], object], file: str) -> int:
    """0, or after a documented error, which is printed, 1 where the file holds nothing, else 2."""
    try:
        work(file)
    except Exception as error:
        print(f"mmlib: {_message(error)}", file=sys.stderr, flush=True)
        return 1 if type(error).__name__ == "NothingError" else 2
    return 0


def _message(error: Exception) -> str:
    """What to tell of an error that is made for the user, or a disk's; raises any other."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return (f"{error}; set MMLIB_RESULTS (runs) or MMLIB_CACHE (packs) to a folder that can be "
                "written")
    if DOCUMENTED.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        raise error
    return str(error)


def overview() -> str:
    """What `mmlib --help` prints."""
    about = STAGES | {name: function.__doc__ or "" for name, function in COMMANDS.items()}
    lines = [f"  {name:14}{text.partition(chr(10))[0]}" for name, text in about.items()]
    return "\n".join([
        "usage: mmlib COMMAND [OPTIONS]", "", *(mmlib.__doc__ or "").splitlines()[:1], "",
        *lines, "",
        "mmlib COMMAND --help lists a command's options; mmlib --version prints the version.",
    ])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command: 0 is success, 2 a wrong call or a documented error, 130 an interrupt."""
    for stream in (sys.stdout, sys.stderr):  # a console that lacks a sign of a name shows its code
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    argv = list(sys.argv[1:] if argv is None else argv)
    name, rest = " ".join(argv[:1]), argv[1:]
    if name == "data":
        name, rest = " ".join(argv[:2]), argv[2:]
    if name in ("-h", "--help", "--version"):
        print(f"mmlib {mmlib.__version__}" if name == "--version" else overview())
        return 0
    if name not in (*STAGES, *COMMANDS):
        print(f"mmlib: there is no command {name!r}\n\n{overview()}", file=sys.stderr)
        return 2
    try:
        if name in STAGES:
            return run_stage(name, rest)
        # No option to turn off a switch that is off, none to say None.
        config = FlagCreatePairsOff, DisallowNone
        return tyro.cli(COMMANDS[name], args=rest, prog=f"mmlib {name}", config=config) or 0
    except KeyboardInterrupt:
        text = "mmlib: interrupted; the same command goes on from the last checkpoint"
        print(text, file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mmlib"):
            raise
        extra = "export" if name == "export" else "notebooks"
        print(f"mmlib: {name} needs {error.name}: pip install '.[{extra}]'", file=sys.stderr)
    except Exception as error:
        print(f"mmlib: {_message(error)}", file=sys.stderr)
    return 2
