"""The recogniser that ships, exported as ONNX, beside PyTorch: `python -m scripts.exported`.

What is compared is the same: one expression at a time, one thread, the same search; the readers
take turns. Readings are held against PyTorch's in float32. Rates are of CROHME's validation split,
where it is found, and those of eight bits are recorded; no test is read.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mmlib.data.corpus import load_corpus, resolved, synthetic_pack
from mmlib.formula.ink import Ink, typical_size
from mmlib.read import batch
from mmlib.read.export import export
from mmlib.read.onnx import OnnxReader
from mmlib.read.reader import Reader
from mmlib.study.evaluate import evaluate

ARM = "recogniser, 8 bits"
BEAMS = (1, 5)


def expressions(count: int) -> list[Ink]:
    """Validation's and, a quarter, synthetic ones."""
    corpus, pack = load_corpus(resolved("auto")), synthetic_pack("test")
    real = np.random.default_rng(5).permutation(corpus.valid)[: count - count // 4]
    return [corpus.pack[int(i)] for i in real] + [pack[i] for i in range(count // 4)]


@contextlib.contextmanager
def whole_precision() -> Iterator[None]:
    """PyTorch without bfloat16, which the graphs do not have."""
    kept, batch.autocast = batch.autocast, lambda device: contextlib.nullcontext()
    try:
        yield
    finally:
        batch.autocast = kept


def compare(readers: dict[str, Reader], inks: Sequence[Ink], beam: int) -> list[str]:
    """How long each reader takes and how often it reads as the first: a line each."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    best, whole = dict.fromkeys(readers, 0), dict.fromkeys(readers, 0)
    for ink in inks:
        given, found = (ink.points, ink.stroke, typical_size(ink.points, ink.stroke)), {}
        for name, reader in readers.items():
            started = time.perf_counter()
            found[name] = [r.tokens for r in reader.read([given], beam)[0]]
            times[name].append(time.perf_counter() - started)
        first = next(iter(found.values()))
        for name, readings in found.items():
            best[name] += readings[:1] == first[:1]
            whole[name] += readings == first
    lines = []
    for name, each in times.items():
        low, middle, high = 1000 * np.quantile(each, (0.25, 0.5, 0.75))
        lines.append(f"{name:18} beam {beam}: {middle:6.1f} ms [{low:.1f}, {high:.1f}], the best "
                     f"reading as PyTorch's {best[name]} of {len(inks)}, all of them {whole[name]}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("scripts.exported", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="expressions to compare (200)")
    parser.add_argument("--record", action="store_true", help="record the rates of eight bits")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, size in export(Reader.load(), folder).items():
            print(f"{name:18} {size / 2**20:6.2f} MiB")
        readers = {"PyTorch": Reader.load(), "ONNX": OnnxReader.open(folder),
                   "ONNX, 8 bits": OnnxReader.open(folder, small=True)}
        with whole_precision():
            for beam in BEAMS:
                print(*compare(readers, expressions(options.count), beam), sep="\n", flush=True)
        dataset = resolved("auto")
        for name, reader in readers.items():
            arm = ARM if options.record and name.endswith("8 bits") else None
            print(f"{name:18} {evaluate(reader, dataset, 'valid', arm=arm)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
