"""CROHME's InkML, from the archives as they are distributed or from unpacked folders.

Archives are untrusted: members are read in memory, never extracted, and absolute paths, `..`, links, devices,
huge members and endless archives are refused.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mmlib.data import DataError, data_root
from mmlib.formula.ink import Ink, InkError
from mmlib.formula.inkml import read_inkml

MAX_MEMBER = 32 * 2**20  # bytes
MAX_TOTAL = 4 * 2**30  # bytes
MAX_MEMBERS = 500_000

# Archive, and the kind of file that counts.
DATASETS = {
    "train_2014": ("train_2014.inkml.tar.xz", ".inkml"),
    "test_2014": ("test_2014.inkml.tar.xz", ".inkml"),
    "test_2016": ("test_2016.png256.tar.xz", ".png"),
    "test_2019": ("test_2019.inkml.tar.xz", ".inkml"),
}


def iter_archive(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (member name, content) of the regular files of a tar archive, compressed or not.

    Raises DataError, naming the archive and the member, for a damaged archive and for members that a data set
    never
    has: absolute or parent paths, links, devices, more than 32 MiB each, 4 GiB in all.
    """
    total = 0
    try:
        with tarfile.open(path, "r:*") as archive:
            for number, member in enumerate(archive):
                parts = PurePosixPath(member.name)
                if parts.is_absolute() or ".." in parts.parts or "\\" in member.name:
                    raise DataError(
                        f"{path}: member {member.name!r} points outside the archive; do not use this file"
                    )
                if member.isdir():
                    continue
                if not member.isreg():
                    raise DataError(
                        f"{path}: member {member.name!r} is a link or a device; do not use this file"
                    )
                total += member.size
                if member.size > MAX_MEMBER or total > MAX_TOTAL or number >= MAX_MEMBERS:
                    raise DataError(
                        f"{path}: member {member.name!r} is beyond the size limits; do not use this file"
                    )
                file = archive.extractfile(member)
                assert file is not None  # it is a regular file
                yield member.name, file.read()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such archive; see the README for where CROHME goes") from None
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path}: damaged or no tar archive ({error}); fetch it again") from None


def iter_folder(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path from the folder's parent, content) of every file below a folder, sorted by path."""
    path = Path(path)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        yield file.relative_to(path.parent).as_posix(), file.read_bytes()


def find(name: str) -> Path:
    """The archive of a data set, or an unpacked folder of its name; DataError where neither is there."""
    root = data_root() / "crohme"
    candidates = [root / DATASETS[name][0], root / name] if name in DATASETS else [Path(name)]
    for path in candidates:
        if path.exists():
            return path
    raise DataError(
        f"{name}: found neither of {', '.join(map(str, candidates))}; put CROHME under $MMLIB_DATA/crohme"
    )


def iter_files(path: str | Path, suffix: str = ".inkml") -> list[tuple[str, bytes]]:
    """The (name, content) of all files with a suffix in an archive or a folder, sorted by name."""
    files = iter_folder(path) if Path(path).is_dir() else iter_archive(path)
    return sorted(
        (n, c) for n, c in files if n.lower().endswith(suffix) and not PurePosixPath(n).name.startswith(".")
    )


def read_member(name: str, content: bytes) -> Ink:
    """One InkML file as Ink with `source` (its folder) and a writer that is unique over sources.

    Writers are named `source/writer`. MathBrush names none, but its files `session-writer-formula` do. Raises
    InkError.
    """
    ink = read_inkml(content, name)
    source = PurePosixPath(name).parent.name or None
    writer = ink.writer
    if writer is None and source == "MathBrush":
        writer = ink.id.rpartition("-")[0] or None
    return replace(ink, source=source, writer=f"{source}/{writer}" if writer and source else writer)


def read_dataset(name: str) -> Iterator[Ink | InkError]:
    """All expressions of a data set (a name, or a path of InkML files), unreadable ones as errors."""
    for member, content in iter_files(find(name)):
        try:
            yield read_member(member, content)
        except InkError as error:
            yield error
