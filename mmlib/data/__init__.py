"""Data sets: where they are, how they are read, packed and split."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class DataError(RuntimeError):
    """Data that is missing or unusable: the message names it and says what to do."""


def the_file(path: str | Path) -> Path:
    """The path of a file; FileNotFoundError or DataError, naming it, where it is missing or a folder."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the files in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    return path


def leave_with_parent() -> None:
    """In a worker process: end when the process that started it is gone, a killed one too, instead of waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def data_root() -> Path:
    """The folder that holds `crohme/`: `$MMLIB_DATA`, by default `data/` under the project's root."""
    return Path(os.environ.get("MMLIB_DATA") or ROOT / "data")


def cache_root() -> Path:
    """Where packs are kept: `$MMLIB_CACHE`, by default `data/packs/` under the project's root."""
    return Path(os.environ.get("MMLIB_CACHE") or ROOT / "data" / "packs")
