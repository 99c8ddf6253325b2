"""The recogniser that ships, exported as ONNX, beside PyTorch: `python -m scripts.exported`.

What is compared is the same: one expression at a time, one thread, the same search; the readers
take turns. Readings are held against PyTorch's in float32. Rates are of CROHME's validation split,
where it is found; no test is read. `--record` keeps all of it in `results/exported.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from mmlib.data.corpus import load_corpus, resolved, synthetic_pack
from mmlib.formula.ink import Ink, typical_size
from mmlib.read import batch
from mmlib.read.export import export
from mmlib.read.onnx import onnx_reader
from mmlib.read.reader import Reader
from mmlib.store.files import results_root, write_atomic
from mmlib.store.machine import commit, hardware, utc
from mmlib.study.evaluate import Config, evaluate

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


def compare(readers: dict[str, Reader], inks: Sequence[Ink], beam: int) -> list[dict[str, Any]]:
    """How long each reader takes, in ms, and how often it reads as the first: a row each."""
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
    rows = []
    for name, each in times.items():
        low, middle, high = (1000 * np.quantile(each, (0.25, 0.5, 0.75))).round(1).tolist()
        rows.append({"reader": name, "beam": beam, "median": middle, "low": low, "high": high,
                     "n": len(inks), "best_same": best[name], "all_same": whole[name]})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("scripts.exported", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="expressions to compare (200)")
    parser.add_argument("--record", action="store_true", help="keep it in results/exported.json")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sizes = export(Reader.load(), folder)
        print(sizes)
        readers = {"PyTorch": Reader.load(), "ONNX": onnx_reader(folder),
                   "ONNX, 8 bits": onnx_reader(folder, small=True)}
        with whole_precision():
            rows = [row for beam in BEAMS
                    for row in compare(readers, expressions(options.count), beam)]
        print(*rows, sep="\n", flush=True)
        dataset, rates = resolved("auto"), {}
        for name, reader in readers.items():
            rates[name] = asdict(evaluate(reader, Config(dataset, "valid")))
            print(name, rates[name], flush=True)
    if options.record:
        about = {"run": readers["PyTorch"].run, "hardware": hardware(), "commit": commit(),
                 "utc": utc(), "bytes": sizes, "reading": rows, "split": f"{dataset} valid",
                 "rates": rates}
        text = json.dumps(about, indent=1) + "\n"
        write_atomic(results_root() / "exported.json", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
