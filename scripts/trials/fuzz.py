"""Random and broken inputs for every parser and loader: only documented errors come out, in bounded time and memory.

    python -m scripts.trials.fuzz --count 100000 --seed 0

An input is a valid one of its kind with random damage (bytes, fields, numbers, nesting), or random text from the kind's own
alphabet; `SHARES` lists the kinds. The outcome counts inputs, refusals and what was raised that should not have been, with the
slowest input and the peak memory.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.cli import DOCUMENTED
from scripts.trials import Campaign

BLOCK = 2_000  # inputs a case: the outcome is kept after each
LONGEST = 2.0  # seconds of processor time an input, so that what else the machine does has no part in it
MOST = 512 * 2**20  # bytes an input

NUMBERS = ("0", "-1", "1", "nan", "inf", "-inf", "1e400", "1e-320", "9" * 40, "0x10", "", "١", "1_0", "--1", "1e7", "-0.0")
WORDS = (r"\frac", r"\sqrt", "{", "}", "[", "]", "^", "_", "x", "1", "+", r"\left", r"\right", "(", ")", r"\sum", r"\limits",
         "'", r"\begin{matrix}", r"\end{matrix}", "&", r"\\", r"\mathrm", r"\color", "%", "#", "~", "\x00", "é", "😀", " ", "$",
         "\n", r"\unknown", r"\lt", r"\prime", r"\hspace{1cm}", r"\over", r"\text", r"\def\a{\a\a}")


def damaged(rng: random.Random, data: bytes) -> bytes:
    """A few random edits: bytes flipped, pieces cut, doubled, moved, or replaced by numbers and words."""
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


def latex_text(rng: random.Random) -> str:
    """Words of LaTeX in any order, sometimes one of them very often."""
    words = [rng.choice(WORDS) for _ in range(rng.randrange(40))]
    if words and rng.random() < 0.05:
        words.insert(rng.randrange(len(words)), rng.choice(WORDS) * rng.choice((100, 10_000)))
    return rng.choice(("", " ")).join(words)


def json_value(rng: random.Random, depth: int = 0) -> Any:
    """A random JSON value, odd numbers and keys included."""
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind < 6:
        return (None, rng.random() < 0.5, rng.choice((0, -1, 1, 3, 2**31, 2**70)), rng.choice((0.5, -0.0, 1e308, float("nan"))),
                rng.choice(WORDS), rng.choice(("none", "crohme", "../x", "/", "a" * 300)))[kind]
    if kind == 6:
        return [json_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(("d", "heads", "lr", "muon", "maps", "x", "encoder", "widths")): json_value(rng, depth + 1)
            for _ in range(rng.randrange(4))}


class Kinds:
    """One function for each kind of input: it makes one from a generator and gives it to what reads it."""

    def __init__(self, folder: Path):
        from mmlib.data.pack import normalised, write_pack
        from mmlib.formula.inkml import write_inkml
        from mmlib.synthetic.compose import synthetic_ink

        self.folder = folder
        inks = synthetic_ink(6, 3)
        self.inkml = []
        for ink in inks:
            write_inkml(ink, folder / "ink.inkml")
            self.inkml.append((folder / "ink.inkml").read_bytes())
        write_pack([normalised(i) for i in inks], folder / "pack.safetensors", "p")
        self.pack = (folder / "pack.safetensors").read_bytes()
        self.pictures = self._pictures()
        self.weights = self._weights()
        cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["profile: str = 'smoke'\n", "seed = 0"]}
        self.notebook = json.dumps({"cells": [cell]}).encode()
        for name in SHARES:  # imports are no input's time
            one(self, 0, 0, name)

    def _pictures(self) -> list[bytes]:
        from PIL import Image, ImageDraw

        found = []
        for mode in ("L", "RGBA", "P", "1"):
            image = Image.new("L", (60, 30), 255)
            ImageDraw.Draw(image).line((5, 5, 50, 20), fill=0, width=3)
            file = io.BytesIO()
            image.convert(mode).save(file, "PNG")
            found.append(file.getvalue())
        for form in ("JPEG", "BMP"):
            file = io.BytesIO()
            image.save(file, form)
            found.append(file.getvalue())
        return found

    def _weights(self) -> list[bytes]:
        import torch

        from mmlib.formula.vocabulary import Vocabulary
        from mmlib.models.recogniser import Recogniser
        from mmlib.store.runs import Run, save_weights
        from mmlib.train import finetune

        vocabulary = Vocabulary.crohme()
        config = finetune.Config.preset("smoke")
        run = Run.open("finetune", "smoke", config, {}, "0")
        torch.manual_seed(0)
        path = self.folder / "weights.safetensors"
        save_weights(path, Recogniser(len(vocabulary), config.model).half().state_dict(), {
            "config": run.config, "vocabulary": list(vocabulary.tokens), "run": "x", "pictures": 1, "minutes": 1.0})
        return [path.read_bytes()]

    # --- what is read -----------------------------------------------------------------------------------------
    def ink(self, rng: random.Random) -> None:
        from mmlib.formula.inkml import read_inkml

        read_inkml(damaged(rng, rng.choice(self.inkml)), "x.inkml")

    def latex(self, rng: random.Random) -> None:
        from mmlib.formula.latex import canonical, structure

        structure(canonical(latex_text(rng)))

    def picture(self, rng: random.Random) -> None:
        from mmlib.data.pictures import decode
        from mmlib.read.source import ink_of

        ink_of(decode(damaged(rng, rng.choice(self.pictures))))

    def array(self, rng: random.Random) -> None:
        from mmlib.read.source import ink_of

        shape = tuple(rng.choice((0, 1, 2, 3, 17)) for _ in range(rng.choice((1, 2, 2, 3))))
        values = np.random.default_rng(rng.randrange(2**32)).normal(100, 200, shape)
        if values.size and rng.random() < 0.3:
            values.flat[0] = rng.choice((np.nan, np.inf, -np.inf, 1e300))
        with np.errstate(all="ignore"):
            ink_of(values.astype(rng.choice((np.float64, np.float32, np.uint8, np.int64, bool))))

    def packs(self, rng: random.Random) -> None:
        from mmlib.data.pack import Pack

        path = self.folder / "p.safetensors"
        path.write_bytes(self._damaged_tensors(rng, self.pack))
        pack = Pack.open(path)
        for i in range(min(len(pack), 3)):
            pack[i]

    @staticmethod
    def _damaged_tensors(rng: random.Random, data: bytes) -> bytes:
        """Damage to the header, which would else be hit seldom, or anywhere."""
        size = int.from_bytes(data[:8], "little")
        if rng.random() < 0.6:
            header = damaged(rng, data[8 : 8 + size])
            return (len(header) if rng.random() < 0.9 else rng.randrange(2**63)).to_bytes(8, "little") + header + data[8 + size :]
        return damaged(rng, data)

    def weights_file(self, rng: random.Random) -> None:
        from mmlib.read.reader import _load

        path = self.folder / "w.safetensors"
        path.write_bytes(self._damaged_tensors(rng, self.weights[0]))
        _load.__wrapped__(path, "cpu", changed=0)

    def checkpoint(self, rng: random.Random) -> None:
        from mmlib.store.runs import Run

        run = Run("toy", "smoke", {}, {}, "1", self.folder / "run")
        path = run.save_checkpoint(rng.randrange(9), {"x": np.float32(1), "rows": [1, None, "a"]})
        path.write_bytes(damaged(rng, path.read_bytes()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                run.load_checkpoint()
            finally:
                for left in run.folder.iterdir():
                    left.unlink()

    def run_folder(self, rng: random.Random) -> None:
        from mmlib.store.runs import Run

        folder = self.folder / "asked"
        folder.mkdir(exist_ok=True)
        asked = json.dumps({"stage": "s", "profile": "p", "config": {"seed": 0}, "inputs": {}, "version": "1"}).encode()
        rows = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n'
        (folder / "config.json").write_bytes(damaged(rng, asked))
        (folder / "metrics.jsonl").write_bytes(damaged(rng, rows))
        (folder / "environment.json").write_bytes(damaged(rng, b'{"weights": null, "summary": {"ter": 0.5}}'))
        run = Run.load(folder)
        run.metrics()
        _ = run.summary

    def table(self, rng: random.Random) -> None:
        from mmlib.study import records

        path = self.folder / "records.csv"
        row = ",".join(records.COLUMNS) + "\nr,s,p,a,d,v,1,0,0,ter,0.5,4,9,1,h,c,u\n"
        path.write_bytes(damaged(rng, row.encode()))
        records.rows(path)

    def options(self, rng: random.Random) -> None:
        from mmlib.cli import build_parser, config_from
        from mmlib.train import finetune, pretrain

        stage, name = rng.choice(((finetune, "finetune"), (pretrain, "pretrain")))
        given = [name]
        for _ in range(rng.randrange(1, 4)):
            option = rng.choice(("--optim", "--view", "--model", "--encoder", "--seed", "--pictures", "--dataset", "--labels"))
            value = rng.choice((json.dumps(json_value(rng)), rng.choice(NUMBERS), latex_text(rng)))
            given += [option, value]
        stderr, sys.stderr = sys.stderr, io.StringIO()
        try:
            config_from(build_parser(name).parse_args(given), stage.Config)
        except SystemExit:  # argparse has said what is wrong
            raise FileNotFoundError from None
        finally:
            sys.stderr = stderr

    def parameters(self, rng: random.Random) -> None:
        from scripts.reproduce import parameters_of

        path = self.folder / "n.ipynb"
        path.write_bytes(damaged(rng, self.notebook))
        parameters_of(path)

    def archive(self, rng: random.Random) -> None:
        import tarfile

        from mmlib.data.archives import iter_archive

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
SHARES = {"ink": 20, "latex": 30, "picture": 10, "array": 4, "packs": 10, "weights_file": 2, "checkpoint": 4, "run_folder": 5,
          "table": 5, "options": 2, "parameters": 5, "archive": 3}


def one(kinds: Kinds, seed: int, number: int, kind: str | None = None) -> tuple[str, str, str | None, float]:
    """Input `number` of a seed: its kind, 'read' or the error it was refused with, what was undocumented, and seconds."""
    rng = random.Random(f"{seed} {number}")
    (drawn,) = rng.choices(list(SHARES), list(SHARES.values()))
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
    """A block of inputs: counts, faults, the slowest, and the peak memory over what the process had before."""
    kinds = Kinds(folder)
    counts: Counter[str] = Counter()
    faults, slowest = [], (0.0, "")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in range(first, first + count):
        kind, said, fault, seconds = one(kinds, seed, number)
        counts[f"{kind}: {said}"] += 1
        slowest = max(slowest, (round(seconds, 3), f"input {number} ({kind})"))
        if fault:
            faults.append(fault)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"first": first, "count": count, "counts": dict(sorted(counts.items())), "undocumented": faults, "slowest": slowest,
            "grown_mib": round((after - before) / 2**20, 1), "peak_mib": round(after / 2**20, 1)}


def summary(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """The blocks' counts together; the slowest input and the most memory of them."""
    counts: Counter[str] = sum((Counter(b["counts"]) for b in blocks), Counter())
    slowest = max((tuple(b["slowest"]) for b in blocks), default=(0.0, ""))
    return {"inputs": sum(b["count"] for b in blocks), "counts": dict(sorted(counts.items())),
            "undocumented": [fault for b in blocks for fault in b["undocumented"]], "slowest_seconds": slowest[0],
            "slowest": slowest[1], "grown_mib": max((b["grown_mib"] for b in blocks), default=0.0),
            "peak_mib": max((b["peak_mib"] for b in blocks), default=0.0)}


def main(argv: list[str] | None = None) -> int:
    """The command; 0 where nothing undocumented was raised, and no input took too long or too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="give one input alone, and let its error through")
    parser.add_argument("--out", type=Path, help="the outcome's file (results/trials/fuzz.json)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.only is not None:
            rng = random.Random(f"{args.seed} {args.only}")
            (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
            getattr(Kinds(Path(folder)), kind)(rng)
            return 0
        campaign = Campaign("fuzz", {"count": args.count, "seed": args.seed}, args.out)
        blocks = -(-args.count // BLOCK)

        def case(number: int) -> dict[str, Any]:
            return block(Path(folder), args.seed, number * BLOCK, min(BLOCK, args.count - number * BLOCK))

        found = campaign.run(blocks, case, summary)["summary"]
    print(json.dumps(found, indent=1))
    return int(bool(found["undocumented"]) or found["slowest_seconds"] > LONGEST or found["grown_mib"] * 2**20 > MOST)


if __name__ == "__main__":
    sys.exit(main())
