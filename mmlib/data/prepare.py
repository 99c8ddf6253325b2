"""Read data sets, pack them, and keep a report of what was read, what was not, and why."""

import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmlib.data.captions import InkFile, Picture, read_folder
from mmlib.data.crohme import DATASETS, find, inkml_files, read_member
from mmlib.data.errors import DataError
from mmlib.data.pack import RESOLUTION, VERSION, Pack, PackError, normalised, write_pack
from mmlib.data.trace import traced
from mmlib.data.workers import end_with_parent
from mmlib.formula.ink import Ink, InkError
from mmlib.formula.latex import label_fields
from mmlib.store.files import cache_root, write_atomic

CHUNK = 100  # files that a worker takes at a time
SHOWN = 10  # items of each list that `summary` names; the kept report has them all

Results = list[tuple[Ink, float] | str]  # what goes into a pack, or why something does not


def _read_chunk(files: list[InkFile]) -> Results:
    done: Results = []
    for file in files:
        try:
            ink = read_member(file.name, file.content)
            given = label_fields(file.latex)
            if given["latex"]:  # a label file's label; the ink's own may be another
                same = given["tokens"] == ink.tokens
                ink = replace(ink, **given, token_symbols=ink.token_symbols if same else None)
            done.append(normalised(ink))
        except InkError as error:
            done.append(str(error))
    return done


def _read_inks(files: list[InkFile], workers: int) -> Results:
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    if workers > 1 and len(chunks) > 1:
        with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
            return [result for chunk in pool.map(_read_chunk, chunks) for result in chunk]
    return [result for chunk in chunks for result in _read_chunk(chunk)]


def _read(items: Iterable[Picture | InkFile | DataError], workers: int) -> tuple[Results, bool]:
    """Items as `read_folder` gives them, pictures first; whether there were pictures."""
    done: Results = []
    inks: list[InkFile] = []
    for item in items:
        if isinstance(item, InkFile):
            inks.append(item)
        elif isinstance(item, DataError):
            done.append(str(item))
        else:
            try:
                done.append(traced(item))
            except DataError as error:
                done.append(f"{item.id}: {error}")
    drawn = any(not isinstance(result, str) for result in done)
    taken: set[str] = set()
    for file, result in zip(inks, _read_inks(inks, workers), strict=True):
        if isinstance(result, str):
            done.append(result)
            continue
        ink, size = result
        if ink.id in taken:  # in another folder
            ink = replace(ink, id=file.name)
        taken.add(ink.id)
        # Beside pictures, whose points are pixels, ink keeps its steps.
        done.append((ink, float(RESOLUTION) if drawn else size))
    return done, drawn


def _prepare_one(name: str, out_dir: Path, workers: int) -> dict[str, Any]:
    """Pack one data set as `<out_dir>/<name>.safetensors`; returns its report. See `prepare`."""
    started = time.perf_counter()
    source = find(name)
    if name in DATASETS and not name.endswith("_pictures"):
        members = (InkFile(member, content) for member, content in inkml_files(source))
        results, drawn = _read(members, workers)
    else:  # a benchmark's pictures stay as they are
        results, drawn = _read(read_folder(source, photos=name not in DATASETS), workers)
    items = [result for result in results if not isinstance(result, str)]
    skipped = [result for result in results if isinstance(result, str)]
    if not items:
        why = "".join(f"; {reason}" for reason in skipped[:3])
        why += f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        raise DataError(f"{name}: neither .inkml files nor readable pictures in {source}{why}")
    inks = [ink for ink, _ in items]
    path = out_dir / f"{pack_name(name)}.safetensors"
    write_pack(items, path, traced=drawn)
    return {
        "dataset": name,
        "listed": len(results),
        "read": len(items),
        "skipped": skipped,
        "invalid_labels": {ink.id: ink.label_error for ink in inks if ink.label_error},
        "no_label": [ink.id for ink in inks if ink.latex is None],
        "aligned": sum(ink.token_symbols is not None for ink in inks),
        "writers": len({ink.writer for ink in inks if ink.writer}),
        "symbols": sum(len(ink.symbols) for ink in inks),
        "symbol_classes": len({s.label for ink in inks for s in ink.symbols}),
        "tokens": sum(len(ink.tokens or ()) for ink in inks),
        "traced": drawn,
        "pack_bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - started, 2),
    }


def pack_name(name: str) -> str:
    """What the pack of a data set is called: its name, or a path's last part without extensions."""
    return name if name in DATASETS else Path(name).name.split(".")[0]


def summary(report: dict[str, Any]) -> str:
    """A report as the lines that `mmlib data prepare` prints."""
    skipped, invalid = report["skipped"], report["invalid_labels"]
    lines = [
        "{dataset}: {listed} listed, {read} read, {} skipped, {tokens} tokens, {:.1f} MiB, "
        "{seconds:.1f} s".format(len(skipped), report["pack_bytes"] / 2**20, **report),
        "  pictures, traced to ink" if report["traced"] else
        "  {writers} writers, {symbols} symbols of {symbol_classes} classes, "
        "{aligned} expressions with every token's ink known".format(**report),
    ]
    unreadable = [f"{name}: {why}" for name, why in invalid.items()]
    for said, items in (("skipped", skipped),
                        ("kept without tokens, its label is not valid", unreadable)):
        lines += [f"  {said}: {item}" for item in items[:SHOWN]]
        if len(items) > SHOWN:
            lines.append(f"  {said}: {len(items) - SHOWN} more, in the report beside the pack")
    if report["no_label"]:
        lines.append(f"  {len(report['no_label'])} without a label")
    return "\n".join(lines)


def prepare(datasets: Iterable[str] = tuple(DATASETS), out_dir: str | Path | None = None,
            workers: int | None = None,
            show: Callable[[str], object] = print) -> list[dict[str, Any]]:
    """Pack data sets, show each one's report and keep it beside the pack as `<name>.report.json`.

    datasets: names of `crohme.DATASETS`, or paths of archives or folders, of InkML or of pictures
    with captions, which are traced to ink. `out_dir`: by default `cache_root()`. Returns the
    reports. Raises DataError where a data set is missing or holds nothing to read.
    """
    out_dir = Path(out_dir) if out_dir else cache_root()
    reports = []
    for name in datasets:
        report = _prepare_one(name, out_dir, workers or os.cpu_count() or 1)
        write_atomic(out_dir / f"{pack_name(name)}.report.json", json.dumps(report, indent=1))
        show(summary(report))
        reports.append(report)
    return reports


def load_pack(name: str) -> Pack:
    """The pack of a data set from the cache, prepared where it is missing, damaged or outdated.

    Where the data set itself is gone, a pack of an older version is used as it is.
    """
    path = cache_root() / f"{pack_name(name)}.safetensors"
    try:
        pack = Pack.open(path)
    except PackError:
        pack = None
    if pack is not None and pack.version == VERSION:
        return pack
    try:
        prepare([name], show=lambda text: None)
    except DataError:
        # The archives may be elsewhere by now: a pack of before is better than none.
        if pack is None:
            raise
        return pack
    return Pack.open(path)
