"""Files of a folder or of a tar or zip archive, which is not trusted.

Members are read in memory and never extracted. Absolute paths, `..`, links, devices, huge members
and endless archives are refused.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mmlib.data.errors import DataError

MAX_MEMBER = 32 * 2**20  # bytes
MAX_TOTAL = 4 * 2**30  # bytes
MAX_MEMBERS = 500_000


def iter_archive(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (member name, content) of the regular files of a tar or zip archive.

    Raises DataError, naming the archive and the member, for a damaged archive and for members that
    no data set has: absolute or parent paths, links, devices, over 32 MiB each or 4 GiB in all.
    """
    if zipfile.is_zipfile(path):
        yield from _iter_zip(path)
        return
    total = 0
    try:
        with tarfile.open(path, "r:*") as archive:
            for number, member in enumerate(archive):
                total += member.size
                if wrong := _wrong(member, total, number):
                    raise DataError(f"{path}: member {member.name!r} {wrong}; do not use this file")
                if file := archive.extractfile(member):  # None for a folder
                    yield member.name, file.read()
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such archive; see the README for where CROHME goes"
        ) from None
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path}: damaged or no tar archive ({error}); fetch it again") from None


def _iter_zip(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """`iter_archive` of a zip file."""
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for number, entry in enumerate(archive.infolist()):
                total += entry.file_size
                member = tarfile.TarInfo(entry.filename)
                member.size = entry.file_size
                kind = entry.external_attr >> 16
                member.type = tarfile.SYMTYPE if stat.S_ISLNK(kind) else tarfile.REGTYPE
                if wrong := _wrong(member, total, number):
                    raise DataError(f"{path}: member {member.name!r} {wrong}; do not use this file")
                if not entry.is_dir():
                    yield entry.filename, archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
            NotImplementedError, RuntimeError) as error:  # RuntimeError: a password
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: damaged or locked ({error}); pack it again") from None


def _wrong(member: tarfile.TarInfo, total: int, number: int) -> str | None:
    """Why a member must not be read, if so."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        return "points outside the archive"
    if not (member.isdir() or member.isreg()):
        return "is a link or a device"
    if member.size > MAX_MEMBER or total > MAX_TOTAL or number >= MAX_MEMBERS:
        return "is beyond the size limits"
    return None


def iter_folder(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path from the folder's parent, content) of all files below a folder, by path."""
    path = Path(path)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        yield file.relative_to(path.parent).as_posix(), file.read_bytes()


def iter_files(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files of a folder or an archive."""
    return iter_folder(path) if Path(path).is_dir() else iter_archive(path)
