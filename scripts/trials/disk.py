"""A disk that fills up at a random moment: only the step in flight is lost, and the message helps.

    python -m scripts.trials.disk --times 10 --seed 0     (Linux, as root: it mounts a small tmpfs)

Each case writes a checkpoint, a row of the curves, rows of the records or a pack on a disk that was
filled just before, up to a random remainder. The process must end with a RunError that names the
file; every file there must be whole, with no temporary one beside it; and with room made, the same
command must end as if nothing had happened.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.data import pack
from mmlib.store.run import Run
from mmlib.study import records
from scripts.trials import Campaign, Cases, differing, exit_code, fork
from scripts.trials.kill import Trials

TARGETS = {"checkpoint": "pretrain", "curves": "attend", "records": "records", "pack": "pack"}
# What a case writes: the function that is called just after the disk is full, the last call that
# may be the first to find it full, and the most bytes that are left.
WRITERS: dict[str, tuple[Any, str, int, int]] = {
    "checkpoint": (Run, "save_checkpoint", 5, 200_000),
    "curves": (Run, "log", 1, 1),
    "records": (records, "write_atomic", 11, 1),
    "pack": (pack, "write_atomic", 1, 20_000),
}
SIZE = 24  # MiB
ROWS = 12  # of the records


def fill(place: Path, room: int) -> None:
    """Fill the disk up to `room` bytes."""
    ballast = place / "ballast"
    with open(ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"0" * 4096) == 4096:
            pass
    os.truncate(ballast, max(0, ballast.stat().st_size - room))


def before(owner: Any, name: str, call: int, action: Callable[[], None], ever: bool) -> None:
    """Let `action` happen before the `call`-th call of a function (and, if `ever`, each later)."""
    plain, seen = getattr(owner, name), 0

    def then(*args: Any, **options: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == call or (ever and seen > call):
            action()
        return plain(*args, **options)

    setattr(owner, name, then)


def append_rows(place: Path) -> None:
    """Rows of a made-up run, one append each; what is there already is written again."""
    os.environ["MMLIB_RESULTS"] = str(place)
    row = {"run": "made-up", "stage": "evaluate", "profile": "smoke", "arm": "a", "labels": 1,
           "dataset": "synthetic", "split": "test", "seed": 0, "n": 1, "pictures": 1,
           "hardware": "h", "commit": "c", "utc": "u"}
    for number in range(ROWS):
        records.append([row | {"metric": f"m{number}", "value": number}])


def faulty(trials: Trials, kind: str, place: Path, call: int, room: int) -> Callable[[], None]:
    """The work of a case, on a disk that fills up."""

    def do() -> None:
        owner, name, *_ = WRITERS[kind]
        before(owner, name, call, lambda: fill(place, room), ever=kind == "curves")
        if kind == "records":
            append_rows(place)
        else:
            trials.work(TARGETS[kind], place, 1e9 if kind == "curves" else 0.0)()

    return do


def broken(place: Path) -> list[str]:
    """Files that are not whole, and temporary ones."""
    found = [f"{path.name} was left" for path in place.rglob("*.tmp")]
    for path in place.rglob("metrics.jsonl"):
        text = path.read_text()
        if text and not text.endswith("\n"):
            found.append("half a row of the curves")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in place.glob("runs/*/config.json"):
            Run.load(path.parent).load_checkpoint()
    for path in place.rglob("packs/**/*.safetensors"):
        pack.Pack.open(path)
    if (place / "records.csv").exists():
        numbers = [row["metric"] for row in records.rows(place / "records.csv")]
        if numbers != [f"m{k}" for k in range(len(numbers))]:
            found.append("a row of the records is lost")
    return found


def case(trials: Trials, place: Path, seed: int, number: int) -> dict[str, Any]:
    """One fault, and the same command again with room."""
    kind = list(TARGETS)[number % len(TARGETS)]
    rng = np.random.default_rng([seed, number])
    message, work = trials.message, TARGETS[kind]
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    trials.earlier(work, place)
    *_, last, most = WRITERS[kind]
    call, room = int(rng.integers(1, last + 1)), int(rng.integers(0, most))
    message.write_text("it did not fail")
    pid = fork(faulty(trials, kind, place, call, room), message)
    wrong = [] if exit_code(pid) == 2 else ["no fault"]
    said = message.read_text().replace(str(place), "DISK")
    if not ("could not be written: No space left on device" in said and "make room" in said):
        wrong.append("the message does not say what to do")
    wrong += broken(place)
    (place / "ballast").unlink()
    again = (lambda: append_rows(place)) if kind == "records" else trials.work(work, place)
    if exit_code(fork(again, message)):
        wrong.append(f"afterwards: {message.read_text()}")
    elif kind == "records":
        wrong += broken(place)
        if len((place / "records.csv").read_text().splitlines()) != ROWS + 1:
            wrong.append("rows are missing")
    else:
        wrong += differing(trials.alone[work], trials.result(work, place))
    return {"kind": kind, "call": call, "room": room, "message": said, "wrong": wrong}


def summary(cases: Cases) -> dict[str, Any]:
    """Counts, and the cases where something was wrong."""
    return {
        "faults": len(cases),
        "harmless": sum(not c["wrong"] for c in cases),
        "by_kind": {k: sum(c["kind"] == k for c in cases) for k in TARGETS},
        "wrong": [c for c in cases if c["wrong"]],
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 where every fault was harmless."""
    parser = argparse.ArgumentParser("scripts.trials.disk", description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--out", type=Path, help="the outcome's file (results/trials/disk.json)")
    args = parser.parse_args(argv)
    asked = {"times": args.times, "seed": args.seed, "pictures": args.pictures}
    campaign = Campaign("disk", asked, args.out)
    if not campaign.content["done"]:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "disk"
            place.mkdir()
            trials = Trials(Path(folder), args.pictures, ("pretrain", "attend", "pack"))
            mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(place)]
            subprocess.run(mount, check=True)
            try:
                work = functools.partial(case, trials, place, args.seed)
                campaign.run(args.times, work, summary)
            finally:
                subprocess.run(["umount", place], check=True)
    print(json.dumps(campaign.content["summary"], indent=1))
    return int(campaign.content["summary"]["harmless"] < args.times)


if __name__ == "__main__":
    sys.exit(main())
