"""Pictures with captions, where there is no ink: BTTR's and CoMER's folders, or one's own.

Layouts, in a folder or a tar archive, at any depth: `img/NAME.png|bmp|jpg` beside `caption.txt`
(`NAME<TAB>tokens`), and `NAME.png` beside `*.tsv` (`NAME<TAB>latex`). Where there is no caption
file at all, every picture is read, without a label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mmlib.data.archives import MAX_MEMBER, iter_archive
from mmlib.data.errors import DataError
from mmlib.data.photo import clean, is_photo
from mmlib.data.pictures import decode, ink_levels
from mmlib.formula.latex import LatexError, canonical

Files = Mapping[str, Path | bytes]  # by name; those of a folder are not read before they are needed

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class Picture:
    """One expression's picture, cropped to its ink; labels as in `Ink`."""

    id: str
    array: np.ndarray  # (H, W) uint8, ink 255 on 0
    tokens: tuple[str, ...] | None = None
    latex: str | None = None
    label_error: str | None = None


def read_pictures(path: str | Path, photos: bool = False) -> Iterator[Picture | DataError]:
    """Pictures of a folder or archive in the order of the captions, with DataErrors among them.

    Such errors are a caption without a picture, an unreadable or blank picture and a broken caption
    line. A caption that is no valid LaTeX is no such error: its picture comes with `tokens` None
    and `label_error`. With `photos`, a photograph is cleaned, as `recognize` does.
    """
    path = Path(path)
    files = _open_files(path)
    found = _by_name(files)
    seen: set[str] = set()
    for origin, row in _rows(files, found):
        if isinstance(row, DataError):
            yield row
            continue
        name, latex = row
        folder = PurePosixPath(origin).parent
        places = [(str(f), name) for f in (folder, folder / "img")]
        file = next((found[place] for place in places if place in found), None)
        if file is None:
            yield DataError(f"{path}: {origin} names {name!r}, and there is no such picture")
            continue
        if (key := PurePosixPath(file).stem) in seen:
            yield DataError(f"{path}: {file} is left out: there is a picture {key!r} before it; "
                            "give each its own name and line")
            continue
        try:
            grey = decode(_load(files[file]))
            array = ink_levels(clean(grey) if photos and is_photo(grey) else grey)
        except DataError as error:
            yield DataError(f"{path}: {file}: {error}")
            continue
        # Not before the picture could be read: another of its name may be whole.
        seen.add(key)
        yield _labelled(key, array, latex)


def _open_files(path: Path) -> Files:
    """The files of a folder or an archive."""
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file())
        return {p.relative_to(path).as_posix(): p for p in found}
    return dict(iter_archive(path))


def _load(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file
    if file.stat().st_size > MAX_MEMBER:
        raise DataError(f"{file.stat().st_size} bytes are too many")
    return file.read_bytes()


def _by_name(files: Files) -> dict[tuple[str, str], str]:
    """Pictures by folder and name, with and without the extension."""
    found: dict[tuple[str, str], str] = {}
    for name in files:
        file = PurePosixPath(name)
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            found.setdefault((str(file.parent), file.name), name)
            found.setdefault((str(file.parent), file.stem), name)
    return found


def _rows(files: Files, found: Mapping[tuple[str, str], str]) -> Iterator[
        tuple[str, tuple[str, str | None] | DataError]]:
    """Each caption's file and (picture name, latex); without captions, each picture and None."""
    captions = [n for n in files
                if PurePosixPath(n).name == "caption.txt" or n.lower().endswith(".tsv")]
    if not captions:
        for name in dict.fromkeys(found.values()):
            yield name, (PurePosixPath(name).name, None)
    for name in captions:
        try:
            lines = _load(files[name]).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            yield name, DataError(f"{name}: captions are not UTF-8 ({error}); convert the file")
            continue
        for number, line in enumerate(lines, 1):
            key, tab, label = line.partition("\t")
            if tab and line.strip():
                yield name, (key.strip(), label.strip())
            elif line.strip():
                yield name, DataError(f"{name}, line {number}: no tab after the name")


def _labelled(key: str, array: np.ndarray, latex: str | None) -> Picture:
    if latex is None:
        return Picture(key, array)
    try:
        return Picture(key, array, tuple(canonical(latex)), latex)
    except LatexError as error:
        return Picture(key, array, None, latex, str(error))
