"""Read data sets, pack them, and keep a report of what was read, what was not, and why."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mmlib.data import DataError, cache_root
from mmlib.data.crohme import DATASETS, find, iter_files, read_member
from mmlib.data.pack import Pack, PackError, code_version, normalised, write_atomic, write_pack
from mmlib.ink import Ink, InkError

INK_DATASETS = tuple(n for n, (_, suffix) in DATASETS.items() if suffix == ".inkml")


def _read(files: list[tuple[str, bytes]]) -> list[tuple[Ink, float] | str]:
    done: list = []
    for name, content in files:
        try:
            done.append(normalised(read_member(name, content)))
        except InkError as error:
            done.append(str(error))
    return done


def prepare_ink(name: str, out_dir: Path, workers: int) -> dict:
    """Pack one data set of InkML as `<out_dir>/<name>.safetensors`; returns its report."""
    started = time.perf_counter()
    files = iter_files(find(name))
    if not files:
        raise DataError(f"{name}: no .inkml file in {find(name)}")
    chunks = [files[i : i + 100] for i in range(0, len(files), 100)]
    if workers > 1 and len(chunks) > 1:
        with ProcessPoolExecutor(workers) as pool:
            results = [r for chunk in pool.map(_read, chunks) for r in chunk]
    else:
        results = [r for chunk in chunks for r in _read(chunk)]
    items = [r for r in results if not isinstance(r, str)]
    inks = [ink for ink, _ in items]
    report = {
        "dataset": name,
        "listed": len(files),
        "read": len(items),
        "skipped": [r for r in results if isinstance(r, str)],
        "invalid_labels": {i.id: i.label_error for i in inks if i.label_error},
        "no_label": [i.id for i in inks if i.latex is None],
        "aligned": sum(i.token_symbols is not None for i in inks),
        "writers": len({i.writer for i in inks if i.writer}),
        "no_writer": sum(i.writer is None for i in inks),
        "sources": dict(Counter(i.source for i in inks)),
        "strokes": sum(int(i.stroke[-1]) + 1 for i in inks),
        "points": sum(len(i.points) for i in inks),
        "symbols": sum(len(i.symbols) for i in inks),
        "symbol_classes": len({s.label for i in inks for s in i.symbols}),
        "tokens": sum(len(i.tokens or ()) for i in inks),
        "longest": max((len(i.tokens or ()) for i in inks), default=0),
    }
    path = out_dir / f"{Path(name).name}.safetensors"
    write_pack(items, path, split=Path(name).name)
    return {**report, "pack_bytes": path.stat().st_size, "seconds": round(time.perf_counter() - started, 2)}


def prepare(datasets=tuple(DATASETS), out_dir: str | Path | None = None, workers: int | None = None) -> list[dict]:
    """Pack data sets (names of `crohme.DATASETS`, or paths of archives or folders) and keep each one's report beside it.

    Returns the reports; raises DataError where a data set is missing. `out_dir`: default `mmlib.data.cache_root()`.
    """
    out_dir = Path(out_dir) if out_dir else cache_root()
    reports = []
    for name in datasets:
        report = prepare_ink(name, out_dir, workers or os.cpu_count() or 1)
        write_atomic(out_dir / f"{Path(name).name}.report.json", json.dumps(report, indent=1).encode())
        reports.append(report)
    return reports


def load_pack(name: str) -> Pack:
    """The pack of a data set from the cache, prepared first where it is missing, damaged or written by other code."""
    path = cache_root() / f"{name}.safetensors"
    try:
        pack = Pack.open(path)
        if pack.code == code_version():
            return pack
    except PackError:
        pass
    prepare([name])
    return Pack.open(path)
