"""Random and broken inputs for every parser and loader.

    python -m scripts.trials.fuzz --count 100000 --seed 0

Only documented errors may come out, in bounded time and memory. An input is a valid one of its kind
with random damage (bytes, fields, numbers), or random text from the kind's own alphabet; `SHARES`
lists the kinds. The outcome counts inputs, refusals and undocumented errors, with the slowest input
and the peak memory.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from mmlib.cli import DOCUMENTED
from mmlib.data.archives import iter_archive
from mmlib.data.captions import read_folder
from mmlib.data.errors import DataError
from mmlib.data.labels import label_rows
from mmlib.data.pack import Pack, normalised, write_pack
from mmlib.data.pictures import decode
from mmlib.formula.inkfile import is_ink, read_ink
from mmlib.formula.inkml import read_inkml, write_inkml
from mmlib.formula.latex import canonical, structure
from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.recogniser import Recogniser
from mmlib.read import reader
from mmlib.read.source import ink_of
from mmlib.store.run import Run
from mmlib.store.weights import save_weights
from mmlib.study import records
from mmlib.synthetic.compose import synthetic_ink
from mmlib.train.profiles import preset
from scripts.reproduce import parameters_of
from scripts.trials import Campaign

BLOCK = 2_000  # inputs per case: the outcome is kept after each
LONGEST = 2.0  # seconds of processor time per input, which a busy machine does not stretch
MOST = 512 * 2**20  # bytes per input

NUMBERS = ("0", "-1", "1", "nan", "inf", "-inf", "1e400", "1e-320", "9" * 40, "0x10", "", "١",
           "1_0", "--1", "1e7", "-0.0")
WORDS = (
    r"\frac", r"\sqrt", "{", "}", "[", "]", "^", "_", "x", "1", "+", r"\left", r"\right", "(", ")",
    r"\sum", r"\limits", "'", r"\begin{matrix}", r"\end{matrix}", "&", r"\\", r"\mathrm", r"\color",
    "%", "#", "~", "\x00", "é", "😀", " ", "$", "\n", r"\unknown", r"\lt", r"\prime",
    r"\hspace{1cm}", r"\over", r"\operatorname*{", r"\color{red}", r"\begin{equation}", "²",
    r"\cfrac", r"\big.", r"\label{", r"\kern1pt", "√", "ABOVE", "sin", r"\rm ", r"\cdots",
    r"\text", r"\def\a{\a\a}",
)


# Files of ink in other forms than CROHME's.
INKS = (
    b"""<i:ink xmlns:i="http://www.w3.org/2003/InkML"><i:definitions><i:context xml:id="c">
    <i:inkSource><i:traceFormat><i:channel name="X" orientation="-ve"/><i:channel name="Y"/>
    <i:channel name="F"/></i:traceFormat><i:channelProperties><i:channelProperty channel="X"
    name="resolution" value="100" units="1/cm"/></i:channelProperties></i:inkSource></i:context>
    </i:definitions><i:trace contextRef="#c">2561 1 9,'-29'35'903,"0"66"-457,!#1A 7 * ,? 9 9
    </i:trace></i:ink>""",
    b"""<ink><traceFormat id="f"><channel name="Y"/><channel name="X"/><intermittentChannels>
    <channel name="S"/></intermittentChannels></traceFormat><context id="a" traceFormatRef="#f"/>
    <context id="b" contextRef="#a"/><trace id="1" contextRef="#b">1 2 T,3 4F,5 6,7 8T</trace>
    <traceGroup contextRef="#a"><trace priorRef="#1" continuation="end">1 2\n3 4\n</trace>
    </traceGroup></ink>""",
    b'.VERSION 1.0\n.COORD X Y T\n.SEGMENT F 0 ? "x^2"\n.PEN_DOWN\n1 2 0\n3 4 1\n.PEN_UP\n9 9 9\n',
)
LABELS = {
    "a.txt": b"a\tx\nb.png y\n", "a.csv": b'file,latex\na,"x"\nb,y\n', "a.tsv": b"a\tx\n",
    "a.json": b'[{"name": "a", "label": "x"}, {"id": "b", "text": null}]',
    "a.jsonl": b'{"img": "a", "gt": "x"}\n{"img": "b", "gt": "y"}\n',
}  # fmt: skip


def damaged(rng: random.Random, data: bytes) -> bytes:
    """A few random edits: bytes flipped; pieces cut, doubled, moved or replaced by words."""
    data = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 16))):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        b = min(b, a + rng.choice((1, 1, 4, 40, 4_000)))
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 1:
            del data[a:b]
        elif kind == 2:
            data[a:a] = data[a:b] * rng.choice((1, 2, 50))
        elif kind == 3:
            data[a:b] = rng.choice((*NUMBERS, *WORDS)).encode("utf-8")
        elif kind == 4:
            data[a:a] = bytes(rng.randrange(256) for _ in range(rng.randrange(9)))
        else:
            data[a:] = data[b:] + data[a:b]
        data = data[: 2**20]
    return bytes(data)


def damaged_tensors(rng: random.Random, data: bytes) -> bytes:
    """Damage to a safetensors file: to its header, which is small and seldom hit, or anywhere."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.6:
        header = damaged(rng, data[8 : 8 + size])
        said = len(header) if rng.random() < 0.9 else rng.randrange(2**63)
        return said.to_bytes(8, "little") + header + data[8 + size :]
    return damaged(rng, data)


def latex_text(rng: random.Random) -> str:
    """Words of LaTeX in any order, sometimes one of them very often."""
    words = [rng.choice(WORDS) for _ in range(rng.randrange(40))]
    if words and rng.random() < 0.05:
        words.insert(rng.randrange(len(words)), rng.choice(WORDS) * rng.choice((100, 10_000)))
    return rng.choice(("", " ")).join(words)


def sample_pictures() -> list[bytes]:
    """A stroke on white paper, in several modes and file formats."""
    image = Image.new("L", (60, 30), 255)
    ImageDraw.Draw(image).line((5, 5, 50, 20), fill=0, width=3)
    found = []
    forms = (("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("L", "JPEG"), ("L", "BMP"))
    for mode, form in forms:
        file = io.BytesIO()
        image.convert(mode).save(file, form)
        found.append(file.getvalue())
    return found


def sample_weights(path: Path) -> bytes:
    """The file of a small recogniser with random weights."""
    vocabulary = Vocabulary.crohme()
    config = preset("finetune", "smoke")
    run = Run.open("finetune", "smoke", config, {}, "0")
    torch.manual_seed(0)
    about = {"config": run.config, "vocabulary": list(vocabulary.tokens), "run": "x",
             "pictures": 1, "minutes": 1.0}
    model = Recogniser(len(vocabulary), config.model).half()
    save_weights(path, model.state_dict(), about)
    return path.read_bytes()


class Kinds:
    """One method for each kind of input: it makes one and gives it to what reads that kind."""

    def __init__(self, folder: Path):
        self.folder = folder
        inks = synthetic_ink(6, 3)
        self.inkml = []
        for ink in inks:
            write_inkml(ink, folder / "ink.inkml")
            self.inkml.append((folder / "ink.inkml").read_bytes())
        write_pack([normalised(i) for i in inks], folder / "pack.safetensors")
        self.pack = (folder / "pack.safetensors").read_bytes()
        self.pictures = sample_pictures()
        self.weights = sample_weights(folder / "weights.safetensors")
        source = ["profile: str = 'smoke'\n", "seed = 0"]
        cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source}
        self.notebook = json.dumps({"cells": [cell]}).encode()
        for name in SHARES:  # the first call is slower
            one(self, 0, 0, name)

    def ink(self, rng: random.Random) -> None:
        read_inkml(damaged(rng, rng.choice(self.inkml)), "x.inkml")

    def formats(self, rng: random.Random) -> None:
        content = damaged(rng, rng.choice(INKS))
        is_ink(content)
        read_ink(content, "x.inkml")

    def labels(self, rng: random.Random) -> None:
        name = rng.choice(list(LABELS))
        for row in label_rows(name, damaged(rng, LABELS[name]), lambda asked: asked == "b.png"):
            if isinstance(row, DataError):
                raise row

    def zipped(self, rng: random.Random) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", rng.choice((0, 8, 14))) as archive:
            for name in ("labels.txt", rng.choice(("a.png", "b.inkml", "../x", "c/", "d.xml"))):
                archive.writestr(name, damaged(rng, rng.choice((*INKS, LABELS["a.txt"]))))
        path = self.folder / "a.zip"
        path.write_bytes(damaged(rng, file.getvalue()))
        for item in read_folder(path):
            if isinstance(item, DataError):
                raise item

    def latex(self, rng: random.Random) -> None:
        structure(canonical(text := latex_text(rng)))
        canonical(text, strict=True)

    def picture(self, rng: random.Random) -> None:
        ink_of(decode(damaged(rng, rng.choice(self.pictures))))

    def array(self, rng: random.Random) -> None:
        shape = tuple(rng.choice((0, 1, 2, 3, 17)) for _ in range(rng.choice((1, 2, 2, 3))))
        values = np.random.default_rng(rng.randrange(2**32)).normal(100, 200, shape)
        if values.size and rng.random() < 0.3:
            values.flat[0] = rng.choice((np.nan, np.inf, -np.inf, 1e300))
        kind = rng.choice((np.float64, np.float32, np.uint8, np.int64, bool))
        with np.errstate(all="ignore"):
            ink_of(values.astype(kind))

    def packs(self, rng: random.Random) -> None:
        path = self.folder / "p.safetensors"
        path.write_bytes(damaged_tensors(rng, self.pack))
        pack = Pack.open(path)
        for i in range(min(len(pack), 3)):
            pack[i]

    def weights_file(self, rng: random.Random) -> None:
        path = self.folder / "w.safetensors"
        path.write_bytes(damaged_tensors(rng, self.weights))
        reader._load.__wrapped__(path, "cpu", changed=0)

    def checkpoint(self, rng: random.Random) -> None:
        run = Run("toy", "smoke", {}, {}, "1", self.folder / "run")
        state = {"x": np.float32(1), "rows": [1, None, "a"]}
        path = run.save_checkpoint(rng.randrange(9), state)
        path.write_bytes(damaged(rng, path.read_bytes()))
        try:
            run.load_checkpoint()
        finally:
            for left in run.folder.iterdir():
                left.unlink()

    def run_folder(self, rng: random.Random) -> None:
        folder = self.folder / "asked"
        folder.mkdir(exist_ok=True)
        files = {
            "config.json": b'{"stage": "s", "profile": "p", "config": {"seed": 0}, "inputs": {}, '
                           b'"version": "1"}',
            "metrics.jsonl": b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n',
            "environment.json": b'{"weights": null, "summary": {"ter": 0.5}}',
        }
        for name, data in files.items():
            (folder / name).write_bytes(damaged(rng, data))
        run = Run.load(folder)
        run.metrics()
        _ = run.summary

    def table(self, rng: random.Random) -> None:
        path = self.folder / "records.csv"
        row = ",".join(records.COLUMNS) + "\nr,s,p,a,d,v,1,0,0,ter,0.5,4,9,1,h,c,u\n"
        path.write_bytes(damaged(rng, row.encode()))
        records.rows(path)

    def parameters(self, rng: random.Random) -> None:
        path = self.folder / "n.ipynb"
        path.write_bytes(damaged(rng, self.notebook))
        parameters_of(path)

    def archive(self, rng: random.Random) -> None:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=rng.choice(("w", "w:gz", "w:xz"))) as tar:
            for name in ("a/b.inkml", rng.choice(("../x", "/x", "a/c.png", "a\\b"))):
                info = tarfile.TarInfo(name)
                info.size = 5
                tar.addfile(info, io.BytesIO(b"hello"))
        path = self.folder / "a.tar"
        path.write_bytes(damaged(rng, file.getvalue()))
        for _ in iter_archive(path):
            pass


# What is fuzzed, and its share of the inputs.
SHARES = {
    "ink": 20, "latex": 30, "picture": 10, "array": 4, "packs": 10, "weights_file": 2,
    "checkpoint": 4, "run_folder": 5, "table": 5, "parameters": 5, "archive": 3,
    "formats": 20, "labels": 5, "zipped": 3,
}


def draw(seed: int, number: int) -> tuple[str, random.Random]:
    """The kind of input `number` of a seed, and the generator that makes it."""
    rng = random.Random(f"{seed} {number}")
    (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
    return kind, rng


def one(
    kinds: Kinds, seed: int, number: int, kind: str | None = None
) -> tuple[str, str, str | None, float]:
    """Give input `number` of a seed; its kind, what was said, the fault, processor seconds.

    What was said is 'read' or the name of the error; the fault is an undocumented error, or None.
    """
    drawn, rng = draw(seed, number)
    kind = kind or drawn
    give: Callable[[random.Random], None] = getattr(kinds, kind)
    started, fault, said = time.process_time(), None, "read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            give(rng)
    except Exception as error:
        said = type(error).__name__
        if DOCUMENTED.isdisjoint(k.__name__ for k in type(error).__mro__):
            fault = f"input {number} ({kind}): {said}: {str(error)[:200]}"
    return kind, said, fault, time.process_time() - started


def block(folder: Path, seed: int, first: int, count: int) -> dict[str, Any]:
    """A block of inputs: counts, faults, the slowest, and how much the peak memory grew."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    kinds = Kinds(folder)
    counts: Counter[str] = Counter()
    faults, slowest, before = [], (0.0, ""), peak()
    for number in range(first, first + count):
        kind, said, fault, seconds = one(kinds, seed, number)
        counts[f"{kind}: {said}"] += 1
        slowest = max(slowest, (round(seconds, 3), f"input {number} ({kind})"))
        if fault:
            faults.append(fault)
    return {
        "first": first, "count": count, "counts": dict(sorted(counts.items())),
        "undocumented": faults, "slowest": slowest, "grown_mib": round(peak() - before, 1),
        "peak_mib": round(peak(), 1),
    }


def summary(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """The blocks' counts together; the slowest input and the most memory of them."""
    counts: Counter[str] = sum((Counter(b["counts"]) for b in blocks), Counter())
    slowest = max((tuple(b["slowest"]) for b in blocks), default=(0.0, ""))
    return {
        "inputs": sum(b["count"] for b in blocks),
        "counts": dict(sorted(counts.items())),
        "undocumented": [fault for b in blocks for fault in b["undocumented"]],
        "slowest_seconds": slowest[0],
        "slowest": slowest[1],
        "grown_mib": max((b["grown_mib"] for b in blocks), default=0.0),
        "peak_mib": max((b["peak_mib"] for b in blocks), default=0.0),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 where an undocumented error came out, or an input took too much."""
    parser = argparse.ArgumentParser("scripts.trials.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="give one input, and let its error through")
    parser.add_argument("--out", type=Path, help="the outcome's file (results/trials/fuzz.json)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.only is not None:
            kind, rng = draw(args.seed, args.only)
            getattr(Kinds(Path(folder)), kind)(rng)
            return 0
        campaign = Campaign("fuzz", {"count": args.count, "seed": args.seed}, args.out)

        def case(number: int) -> dict[str, Any]:
            first = number * BLOCK
            return block(Path(folder), args.seed, first, min(BLOCK, args.count - first))

        found = campaign.run(-(-args.count // BLOCK), case, summary)["summary"]
    print(json.dumps(found, indent=1))
    too_much = found["slowest_seconds"] > LONGEST or found["grown_mib"] * 2**20 > MOST
    return int(bool(found["undocumented"]) or too_much)


if __name__ == "__main__":
    sys.exit(main())
