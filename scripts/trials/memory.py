"""Memory of one process over many readings: by PyTorch, by ONNX Runtime, by the page that reads.

    python -m scripts.trials.memory --count 10000
    python -m scripts.trials.memory --readers page --count 2000 --out page.json

Every picture is another one: a short formula, stretched at random, so that every cache by shape
gets new shapes. A few pictures are read again at each measurement and must read the same. The page
runs in Chromium, without a network, and its process is the one that draws and reads.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmlib.draw.raster import rasterise
from mmlib.formula.ink import Ink, typical_size
from mmlib.read.reader import Reader, recognize
from mmlib.store.files import write_atomic
from mmlib.store.machine import commit, hardware, utc, versions
from mmlib.synthetic.compose import synthetic_ink
from scripts.trials import OUTCOMES

READERS = ("torch", "onnx", "page")
PROBES = 8  # pictures that are read again and again
SHORT = 6  # tokens of a formula, at most
WARM = range(1_000, 2_001)  # pictures after which caches are full: what growth is counted from
FLAT = 0.05  # growth that still counts as flat
# Reads a picture of base64 in the page; resolves to the LaTeX when the page shows it.
PAGE_READS = """async text => {
    const before = asked, bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    await take(new Blob([bytes], { type: "image/png" }));
    const shown = () => asked > before && !busy && !waiting
        && document.documentElement.dataset.read === String(asked);
    while (!shown()) await new Promise(done => setTimeout(done, 3));
    return reading.readings[0]?.latex ?? ""; }"""

Read = Callable[[np.ndarray], str]


def picture(ink: Ink, rng: np.random.Generator) -> np.ndarray:
    """Dark ink on white, (H, W) uint8; height, width and pen are the generator's."""
    points = (ink.points - ink.points.min(0)) / typical_size(ink.points, ink.stroke)
    drawn = torch.from_numpy(points * 24 * rng.uniform(0.7, 1.4, 2).astype(np.float32) + 8)
    wide, high = (int(v) + 9 for v in drawn.amax(0))
    stroke, owner = torch.from_numpy(ink.stroke).long(), torch.zeros(len(points)).long()
    ink_of = rasterise(drawn, stroke, owner, (1, high, wide), float(rng.uniform(2, 4)))[0, 0]
    return (255 * (1 - ink_of.numpy())).round().astype(np.uint8)


def resident(process: int | str = "self") -> float:
    """Resident memory of a process, in MiB."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def largest_renderer() -> int:
    """The process of Chromium's that holds the page."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it may end while it is looked at
            if folder.name.isdigit() and b"--type=renderer" in (folder / "cmdline").read_bytes():
                found.append((resident(folder.name), int(folder.name)))
    return max(found)[1]


@contextlib.contextmanager
def opened(name: str) -> Iterator[tuple[Read, Callable[[], float]]]:
    """What reads a picture, and what measures its process in MiB."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if name == "page":
            from playwright.sync_api import sync_playwright

            from scripts import page as pages

            there = pages.build(Path(folder))
            play = stack.enter_context(sync_playwright())
            program = os.environ.get("CHROMIUM") or shutil.which("chromium")
            browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
            stack.callback(browser.close)
            page = browser.new_context(offline=True).new_page()
            page.goto(there.as_uri())
            page.wait_for_selector("html[data-ready=yes]", timeout=120_000)
            process = largest_renderer()

            def shown(grey: np.ndarray) -> str:
                file = io.BytesIO()
                Image.fromarray(grey).save(file, "PNG")
                text = base64.b64encode(file.getvalue()).decode()
                return str(page.evaluate(PAGE_READS, text))

            yield shown, lambda: resident(process)
            return
        reader = Reader.load()
        if name == "onnx":
            from mmlib.read.export import export
            from mmlib.read.onnx import onnx_reader

            export(reader, folder)
            reader = onnx_reader(folder, small=True)
        yield lambda grey: recognize(grey, reader=reader)[0].latex, resident


def trial(name: str, count: int, every: int, minutes: float = math.inf) -> dict[str, Any]:
    """Read `count` pictures, or for so long; memory is measured after each `every`."""
    rng, started = np.random.default_rng(0), time.monotonic()
    inks = [ink for ink in synthetic_ink(400, 11) if len(ink.tokens or ()) <= SHORT]
    probes = [picture(ink, rng) for ink in inks[:PROBES]]
    measured, changed = [], 0
    with opened(name) as (read, memory):
        first = [read(probe) for probe in probes]
        for number in range(1, count + 1):
            read(picture(inks[number % len(inks)], rng))
            if number % every == 0:
                changed += sum(read(probe) != said for probe, said in zip(probes, first))
                measured.append([number, round(memory(), 1)])
                print(name, *measured[-1], file=sys.stderr, flush=True)
                if time.monotonic() - started > 60 * minutes:
                    break
    return {"count": number, "growth": grown(measured), "changed": changed,
            "minutes": round((time.monotonic() - started) / 60, 1), "mib": measured}


def levels(measured: Sequence[Sequence[float]]) -> tuple[float, float]:
    """MiB after the warm-up, the median over `WARM`, and at the end, that of the last tenth.

    measured: (pictures read, MiB). A trial that ends within `WARM` begins with its second tenth.
    """
    mib = [each for _, each in measured]
    tenth = max(1, len(mib) // 10)
    whole = measured[-1][0] >= WARM.stop
    warm = [each for number, each in measured if whole and number in WARM]
    warm = warm or mib[tenth : 2 * tenth]
    return statistics.median(warm), statistics.median(mib[-tenth:])


def grown(measured: Sequence[Sequence[float]]) -> float:
    """Growth from the first of `levels` to the second, as a share of the first."""
    warm, end = levels(measured)
    return round(end / warm - 1, 4)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 where memory stays flat and no reading changes."""
    parser = argparse.ArgumentParser("scripts.trials.memory", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="pictures to read (10000)")
    parser.add_argument("--every", type=int, help="measure after so many (a fiftieth)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end earlier, each reader")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS)
    parser.add_argument("--out", type=Path, default=OUTCOMES / "memory.json", help="the outcome")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    outcome = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {"readers": {}}
    for name in args.readers:
        every = args.every or max(1, args.count // 50)
        outcome["readers"][name] = trial(name, args.count, every, args.minutes)
        outcome |= {"hardware": hardware(), "commit": commit(), "versions": versions(),
                    "utc": utc()}
        write_atomic(args.out, json.dumps(outcome, indent=1) + "\n")
    found = outcome["readers"].values()
    print(json.dumps({name: {key: value for key, value in each.items() if key != "mib"}
                      for name, each in outcome["readers"].items()}, indent=1))
    return int(any(each["growth"] > FLAT or each["changed"] for each in found))


if __name__ == "__main__":
    sys.exit(main())
