"""Read data sets, pack them, and keep a report of what was read, what was not, and why."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from mmlib.data import DataError, cache_root, leave_with_parent
from mmlib.data.crohme import DATASETS, find, iter_files, read_member
from mmlib.data.pack import Pack, PackError, code_version, normalised, write_pack
from mmlib.data.pictures import Picture, PicturePack, read_pictures, write_picture_pack
from mmlib.formula.ink import Ink, InkError
from mmlib.store.runs import write_atomic

CHUNK = 100  # files that a worker takes at a time
SHOWN = 10  # items of each list that `summary` names; the kept report has them all


def _read(files: list[tuple[str, bytes]]) -> list[tuple[Ink, float] | str]:
    done: list[tuple[Ink, float] | str] = []
    for name, content in files:
        try:
            done.append(normalised(read_member(name, content)))
        except InkError as error:
            done.append(str(error))
    return done


def prepare_ink(name: str, files: list[tuple[str, bytes]], out_dir: Path, workers: int) -> dict[str, Any]:
    """Pack the InkML files of one data set as `<out_dir>/<name>.safetensors`; returns its report."""
    started = time.perf_counter()
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    if workers > 1 and len(chunks) > 1:
        with ProcessPoolExecutor(workers, initializer=leave_with_parent) as pool:
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
    path = out_dir / f"{pack_name(name)}.safetensors"
    write_pack(items, path, split=pack_name(name))
    return {**report, "pack_bytes": path.stat().st_size, "seconds": round(time.perf_counter() - started, 2)}


def prepare_pictures(name: str, out_dir: Path) -> dict[str, Any]:
    """Pack pictures with captions as `<out_dir>/<name>.safetensors`; returns the report."""
    started = time.perf_counter()
    results = list(read_pictures(find(name), photos=name not in DATASETS))  # a benchmark's pictures stay what they are
    pictures = [r for r in results if isinstance(r, Picture)]
    if not pictures:
        why = "".join(f"; {reason}" for reason in results[:3]) + (f"; and {len(results) - 3} more" if len(results) > 3 else "")
        raise DataError(f"{name}: neither .inkml files nor readable pictures in {find(name)}{why}")
    report = {
        "dataset": name,
        "listed": len(results),
        "read": len(pictures),
        "skipped": [str(r) for r in results if not isinstance(r, Picture)],
        "invalid_labels": {p.id: p.label_error for p in pictures if p.label_error},
        "no_label": [p.id for p in pictures if p.latex is None],
        "tokens": sum(len(p.tokens or ()) for p in pictures),
        "longest": max(len(p.tokens or ()) for p in pictures),
    }
    path = out_dir / f"{pack_name(name)}.safetensors"
    write_picture_pack(pictures, path, split=pack_name(name))
    return {**report, "pack_bytes": path.stat().st_size, "seconds": round(time.perf_counter() - started, 2)}


def pack_name(name: str) -> str:
    """What the pack of a data set is called: its name, or a path's last part without its extensions."""
    return name if name in DATASETS else Path(name).name.split(".")[0]


def summary(report: dict[str, Any]) -> str:
    """A report as the lines that `mmlib data prepare` prints."""
    lines = [
        f"{report['dataset']}: {report['listed']} listed, {report['read']} read, "
        f"{len(report['skipped'])} skipped, {report['tokens']} tokens, "
        f"{report['pack_bytes'] / 2**20:.1f} MiB, {report['seconds']:.1f} s"
    ]
    if "symbols" in report:
        lines.append(
            f"  {report['writers']} writers, {report['symbols']} symbols of {report['symbol_classes']} "
            f"classes, {report['aligned']} expressions with every token's ink known"
        )
    for said, items in (("skipped", report["skipped"]), ("kept without tokens, its label is not valid", [
            f"{k}: {why}" for k, why in report["invalid_labels"].items()])):
        lines += [f"  {said}: {item}" for item in items[:SHOWN]]
        if len(items) > SHOWN:
            lines.append(f"  {said}: {len(items) - SHOWN} more, in the report beside the pack")
    if report["no_label"]:
        lines.append(f"  {len(report['no_label'])} without a label")
    return "\n".join(lines)


def prepare(
    datasets: Iterable[str] = tuple(DATASETS),
    out_dir: str | Path | None = None,
    workers: int | None = None,
    show: Callable[[str], object] = print,
) -> list[dict[str, Any]]:
    """Pack data sets, show each one's report and keep it beside the pack as `<name>.report.json`.

    datasets: names of `crohme.DATASETS`, or paths of archives or folders, of InkML or of pictures with
    captions. Returns the reports; raises DataError where a data set is missing. `out_dir`: default
    `mmlib.data.cache_root()`.
    """
    out_dir = Path(out_dir) if out_dir else cache_root()
    reports = []
    for name in datasets:
        files = [] if name in DATASETS and DATASETS[name][1] != ".inkml" else iter_files(find(name))
        workers = workers or os.cpu_count() or 1
        report = prepare_ink(name, files, out_dir, workers) if files else prepare_pictures(name, out_dir)
        write_atomic(out_dir / f"{pack_name(name)}.report.json", json.dumps(report, indent=1).encode())
        show(summary(report))
        reports.append(report)
    return reports


def open_pack(path: str | Path) -> Pack | PicturePack:
    """Open a pack of ink or of pictures, whichever the file is; PackError for anything else."""
    try:
        return Pack.open(path)
    except PackError as error:
        try:
            return PicturePack.open(path)
        except PackError:
            raise error from None


def load_pack(name: str) -> Pack | PicturePack:
    """The pack of a data set from the cache, prepared first where it is missing, damaged or outdated.

    Where the data set itself is gone, a pack by other code is used as it is.
    """
    path = cache_root() / f"{pack_name(name)}.safetensors"
    try:
        pack = open_pack(path)
    except PackError:
        pack = None
    if pack is not None and pack.code == code_version():
        return pack
    try:
        prepare([name], show=lambda text: None)
    except DataError:
        if pack is None:
            raise
        return pack
    return open_pack(path)
