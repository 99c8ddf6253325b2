"""Files of a folder or of a tar or zip archive, which is not trusted.

Members are read in memory and never extracted. Absolute paths, `..`, links, devices, huge members
and endless archives are refused.
"""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from mmlib.data.errors import DataError

MAX_MEMBER = 32 * 2**20  # bytes
MAX_TOTAL = 4 * 2**30  # bytes
MAX_MEMBERS = 500_000


def iter_archive(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (member name, content) of the regular files of a tar or zip archive.

    Raises DataError, naming the archive and the member, for a damaged archive and for members that
    no data set has: absolute or parent paths, links, devices, over 32 MiB each or 4 GiB in all.
    """
    total = 0
    try:
        for number, (member, opened) in enumerate(_members(path)):
            total += member.size
            if wrong := _wrong(member, total, number):
                raise DataError(f"{path}: member {member.name!r} {wrong}; do not use this file")
            if not member.isdir() and (file := opened()):
                yield member.name, file.read()
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such archive; see the README for where CROHME goes"
        ) from None
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError,
            ValueError, NotImplementedError, RuntimeError) as error:  # RuntimeError: a password
        raise DataError(f"{path}: damaged, locked or no archive ({error}); "
                        "fetch it or pack it again") from None


def _members(path: str | Path) -> Iterator[tuple[tarfile.TarInfo, Callable[[], IO[bytes] | None]]]:
    """The members of a tar or zip archive, as a tar describes them, and what opens each."""
    if not zipfile.is_zipfile(path):
        with tarfile.open(path) as tar:
            for member in tar:
                yield member, partial(tar.extractfile, member)
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            member = tarfile.TarInfo(entry.filename)
            member.size = entry.file_size
            if stat.S_ISLNK(entry.external_attr >> 16):
                member.type = tarfile.SYMTYPE
            elif entry.is_dir():
                member.type = tarfile.DIRTYPE
            yield member, partial(archive.open, entry)


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


def iter_files(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files of an archive, or of a folder: names from its parent."""
    path = Path(path)
    if not path.is_dir():
        yield from iter_archive(path)
        return
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        yield file.relative_to(path.parent).as_posix(), file.read_bytes()
