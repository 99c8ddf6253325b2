"""Where results are kept, and files that are written whole or not at all."""

import contextlib
import dataclasses
import errno
import glob
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar, get_type_hints
from unittest import mock

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a spent quota, a file too large
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)  # a disk or folder that is only read
STALE = 3_600  # seconds after which a temporary file belongs to no process that still runs


class RunError(RuntimeError):
    """A run or its files cannot be used; the message names the file and the reason."""


def project_root() -> Path:
    """The checkout: the folder above this package, else the nearest one at or above the caller."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "mmlib").is_dir():
            return folder
    return Path.cwd()


def results_root() -> Path:
    """Where results are kept: `$MMLIB_RESULTS`, else `results/` in the project."""
    return Path(os.environ.get("MMLIB_RESULTS") or project_root() / "results")


def data_root() -> Path:
    """The folder that holds `crohme/`: `$MMLIB_DATA`, by default `data/` in the project."""
    return Path(os.environ.get("MMLIB_DATA") or project_root() / "data")


def cache_root() -> Path:
    """Where packs are kept: `$MMLIB_CACHE`, by default `data/packs/` in the project."""
    return Path(os.environ.get("MMLIB_CACHE") or project_root() / "data" / "packs")


def shipped_weights() -> Path:
    """The recogniser that ships: that of `results_root()`, else the one that came with the package.

    `setup.py` puts it into an installed package; in a checkout it lies with the results.
    """
    name, package = "recogniser.safetensors", Path(__file__).resolve().parents[1]
    own = results_root() / "checkpoints" / name
    places = (own, package / name, package.parent / "results" / "checkpoints" / name)
    return next((place for place in places if place.is_file()), own)


def figures_root() -> Path:
    """Where figures are drawn to: `$MMLIB_FIGURES`, else `figures/` in the project."""
    return Path(os.environ.get("MMLIB_FIGURES") or project_root() / "figures")


def elsewhere(name: str, folder: str | os.PathLike[str]) -> AbstractContextManager[Any]:
    """Let `$MMLIB_RESULTS` or `$MMLIB_FIGURES` be another folder for a while."""
    return mock.patch.dict(os.environ, {name: str(folder)})


def write_failure(path: str | os.PathLike[str], error: OSError) -> Exception:
    """What to raise after a failed write: a RunError with the remedy, or the error itself.

    A full disk and one that is only read have a remedy: to name another folder.
    """
    if error.errno not in (*FULL, *CLOSED):
        return error
    place = Path(path).absolute()
    roots = {"MMLIB_RESULTS": results_root(), "MMLIB_FIGURES": figures_root()}
    inside = (name for name, root in roots.items() if place.is_relative_to(root.absolute()))
    move = f"set {next(inside, 'MMLIB_CACHE')} to a folder that can be written"
    remedy = (f". What was there before is whole; make room or {move}, and the same command "
              f"goes on from the last checkpoint" if error.errno in FULL else f"; {move}")
    return RunError(f"{path} could not be written: {error.strerror}{remedy}")


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises RunError where the disk is full or only read."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failure(path, error) from error


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write the file whole or not at all: a temporary file beside it, flushed, then renamed.

    Raises RunError if the disk is full or only read. What a killed process left is removed after an
    hour.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the name without the content
        os.replace(temporary, path)
    except OSError as error:
        raise write_failure(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def digest(path: str | os.PathLike[str]) -> str:
    """The first 16 hex digits of the SHA-256 of a file's content: what names a pack or weights."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def to_json(value: Any, **options: Any) -> str:
    """JSON of nested lists, dicts and dataclasses; scalars may be numpy's or torch's."""

    def convert(item: Any) -> Any:
        if hasattr(item, "item"):
            return item.item()
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return dataclasses.asdict(item)
        raise TypeError(f"{type(item).__name__} does not fit in JSON")

    return json.dumps(value, default=convert, ensure_ascii=False, **options)


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """A configuration dataclass, nested ones too, from its JSON, where its tuples are lists.

    Raises TypeError for a field that the dataclass lacks.
    """
    kinds = get_type_hints(kind)

    def convert(name: str, value: Any) -> Any:
        if dataclasses.is_dataclass(kinds.get(name)) and isinstance(value, Mapping):
            return from_json(kinds[name], value)
        return tuple(value) if isinstance(value, list) else value  # JSON has no tuples

    return kind(**{name: convert(name, value) for name, value in values.items()})
