"""Read data sets, pack them, and keep a report of what was read, what was not, and why."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmlib.data.archives import iter_files
from mmlib.data.captions import InkFile, Traced, read_folder
from mmlib.data.crohme import DATASETS, find, read_member
from mmlib.data.errors import DataError
from mmlib.data.pack import RESOLUTION, VERSION, Pack, normalised, opened_or_made, write_pack
from mmlib.data.workers import end_with_parent
from mmlib.formula.ink import Ink, InkError
from mmlib.formula.latex import label_fields
from mmlib.store.files import cache_root, write_atomic

CHUNK = 100  # files that a worker takes at a time
READING = 3  # raise it when what is read of a folder of one's own changes
SHOWN = 10  # items of each list that `summary` names; the kept report has them all

Result = tuple[Ink, float] | str  # what goes into a pack, or why something does not


def _read_ink(file: InkFile) -> Result:
    try:
        ink = read_member(file.name, file.content)
        given = label_fields(file.latex)
        if given["latex"]:  # a label file's label; the ink's own may be another
            same = given["tokens"] == ink.tokens
            ink = replace(ink, **given, token_symbols=ink.token_symbols if same else None)
        return normalised(ink)
    except InkError as error:
        return str(error)


def _read_inks(files: list[InkFile], workers: int) -> list[Result]:
    if workers > 1 and len(files) > CHUNK:
        with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
            return list(pool.map(_read_ink, files, chunksize=CHUNK))
    return [_read_ink(file) for file in files]


def _read(items: Iterable[Traced | InkFile | DataError], workers: int) -> tuple[list[Result], bool]:
    """Items as `read_folder` gives them, pictures first; whether there were pictures."""
    inks: list[InkFile] = []
    done: list[Result] = []
    for item in items:
        if isinstance(item, InkFile):
            inks.append(item)
        else:
            done.append(str(item) if isinstance(item, DataError) else item)
    drawn = any(not isinstance(result, str) for result in done)
    taken: set[str] = set()
    for file, result in zip(inks, _read_inks(inks, workers), strict=True):
        if not isinstance(result, str):
            ink, size = result
            if ink.id in taken:  # in another folder
                ink = replace(ink, id=file.name)
            taken.add(ink.id)
            # Beside pictures, whose points are pixels, ink keeps its steps.
            result = ink, float(RESOLUTION) if drawn else size
        done.append(result)
    return done, drawn


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
    out_dir, workers = Path(out_dir or cache_root()), workers or os.cpu_count() or 1
    reports = []
    for name in datasets:
        started, source = time.perf_counter(), find(name)
        # A benchmark's pictures stay as they are.
        results, drawn = _read(read_folder(source, photos=name not in DATASETS), workers)
        items = [result for result in results if not isinstance(result, str)]
        skipped = [result for result in results if isinstance(result, str)]
        if not items:
            more = [f"and {len(skipped) - 3} more"] if len(skipped) > 3 else []
            why = [f"{name}: neither .inkml files nor readable pictures in {source}"]
            raise DataError("; ".join(why + skipped[:3] + more))
        inks = [ink for ink, _ in items]
        path = out_dir / f"{pack_name(name)}.safetensors"
        write_pack(items, path, traced=drawn)
        report = {
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
        write_atomic(path.with_suffix(".report.json"), json.dumps(report, indent=1))
        show(summary(report))
        reports.append(report)
    return reports


def load_pack(name: str) -> Pack:
    """The pack of a data set from the cache, prepared where it is missing, damaged or outdated."""
    path = cache_root() / f"{pack_name(name)}.safetensors"
    return opened_or_made(path, lambda: prepare([name], show=lambda text: None))


def load_own(path: str | Path) -> Pack:
    """The pack of one's own folder or archive, made where its content has no pack yet.

    It may hold ink, pictures (which are traced to ink), or both; `mmlib.data.captions` says how.
    What was skipped and why is printed, and kept beside the pack. Raises DataError, naming the
    path, where there is nothing to read.
    """
    path = Path(path).resolve()  # a folder `test_2014` here is not CROHME's
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or archive")
    # A pack stands under the names and contents of all files, and the version of packs.
    total = hashlib.sha256(f"pack {VERSION}.{READING}".encode())
    for name, content in iter_files(path):
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    out = cache_root() / "own" / total.hexdigest()[:16]

    def make() -> None:
        prepare([str(path)], out, show=lambda text: print(text.replace(str(path), path.name)))

    return opened_or_made(out / f"{pack_name(str(path))}.safetensors", make)
