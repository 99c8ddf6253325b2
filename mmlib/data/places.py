"""Where data sets are read from, and where packs are kept."""

from __future__ import annotations

import os
from pathlib import Path

from mmlib.store.files import project_root


def data_root() -> Path:
    """The folder that holds `crohme/`: `$MMLIB_DATA`, by default `data/` in the project."""
    return Path(os.environ.get("MMLIB_DATA") or project_root() / "data")


def cache_root() -> Path:
    """Where packs are kept: `$MMLIB_CACHE`, by default `data/packs/` in the project."""
    return Path(os.environ.get("MMLIB_CACHE") or project_root() / "data" / "packs")
