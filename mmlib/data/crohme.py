"""CROHME: its archives by name, as they are distributed; and its InkML with sources and writers."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from mmlib.data.errors import DataError
from mmlib.formula.ink import Ink
from mmlib.formula.inkfile import read_ink
from mmlib.store.files import data_root

# CROHME 2016 is there twice: as ink, and as pictures of 256 x 256 pixels of the same expressions.
DATASETS = {
    "train_2014": "train_2014.inkml.tar.xz",
    "test_2014": "test_2014.inkml.tar.xz",
    "test_2016": "test_2016.inkml.tar.xz",
    "test_2016_pictures": "test_2016.png256.tar.xz",
    "test_2019": "test_2019.inkml.tar.xz",
}


def find(name: str) -> Path:
    """The archive of a data set; a path stands for itself. Raises DataError where it is missing."""
    path = data_root() / "crohme" / DATASETS[name] if name in DATASETS else Path(name)
    if not path.exists():
        raise DataError(f"{name}: {path} is missing; put CROHME under $MMLIB_DATA/crohme")
    return path


def read_member(name: str, content: bytes) -> Ink:
    """One file of ink as Ink with `source` (its folder) and a writer that is unique over sources.

    Writers are named `source/writer`. MathBrush names none, but its files are called
    `session-writer-formula`. Raises InkError.
    """
    ink = read_ink(content, name)
    source = PurePosixPath(name).parent.name or None
    writer = ink.writer
    if writer is None and source == "MathBrush":
        writer = ink.id.rpartition("-")[0] or None
    return replace(ink, source=source, writer=f"{source}/{writer}" if writer and source else writer)
