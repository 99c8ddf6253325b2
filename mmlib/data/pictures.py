"""Pictures with captions, where there is no ink: BTTR's and CoMER's folders, or one's own.

Layouts, in a folder or a tar archive, at any depth: `img/NAME.png|bmp|jpg` beside `caption.txt`
(`NAME<TAB>tokens`), and `NAME.png` beside `*.tsv` (`NAME<TAB>latex`). Where there is no caption
file at all, every picture is read, without a label.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from mmlib.data.archives import MAX_MEMBER, iter_archive
from mmlib.data.errors import DataError
from mmlib.data.photo import clean, is_photo
from mmlib.formula.latex import LatexError, canonical

if TYPE_CHECKING:
    from PIL.Image import Image

Files = Mapping[str, Path | bytes]  # by name; those of a folder are not read before they are needed

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg")
MAX_PIXELS = 2**25
INK = 25  # a pixel with a tenth of full ink counts as ink where a picture is cropped
# What other files begin with, from byte 0 or, for the phone's formats, 4.
OTHERS = {
    b"%PDF": "a PDF, not a picture; save the page as PNG or JPEG",
    b"GIF8": "a GIF; save it as PNG or JPEG",
    b"II*\0": "a TIFF; save it as PNG or JPEG",
    b"MM\0*": "a TIFF; save it as PNG or JPEG",
    b"RIFF": "a WebP; save it as PNG or JPEG",
    b"ftypavif": "an AVIF; save it as PNG or JPEG",
    b"ftyp": "a HEIC (HEIF) picture; save it as PNG or JPEG",
}


@dataclass(frozen=True, eq=False)
class Picture:
    """One expression's picture, cropped to its ink; labels as in `Ink`."""

    id: str
    array: np.ndarray  # (H, W) uint8, ink 255 on 0
    tokens: tuple[str, ...] | None = None
    latex: str | None = None
    label_error: str | None = None


# --- one picture ---------------------------------------------------------------------------------


def decode(content: bytes) -> np.ndarray:
    """Grey (H, W) uint8 of a PNG, JPEG or BMP file, as `grey_of` gives it.

    Raises DataError, with the remedy, where it fails.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "BMP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{image.width} x {image.height} pixels are too many")
            return grey_of(image)
    except UnidentifiedImageError:
        raise DataError(f"unreadable picture: {_other(content)}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"unreadable picture ({error})") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"unreadable picture, damaged or cut off ({error}); save or copy it again"
        ) from None


def _other(content: bytes) -> str:
    """What a file is that is no PNG, JPEG or BMP, and what to do."""
    for start, what in OTHERS.items():
        if content[:4] == start or content[4:12].startswith(start):
            return what
    if not content:
        return "an empty file; save or copy it again"
    if content.startswith((b"\x89PNG", b"\xff\xd8", b"BM")):
        return "damaged or cut off; save or copy it again"
    text = min(content[:1000]) >= 9  # no control bytes below the tab
    what = "text" if text else "neither a PNG, a JPEG nor a BMP"
    return f"{what}; save the picture as PNG or JPEG"


def grey_of(image: Image) -> np.ndarray:
    """Grey (H, W) uint8 of a PIL image, upright by its EXIF orientation.

    What is transparent becomes white; it becomes black where the opaque part is light and small.
    """
    from PIL import Image, ImageOps

    # A telephone held sideways stores the picture as its sensor saw it, and how to turn it.
    if image.getexif().get(274, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        levels = np.asarray(image.convert("L"), float)
        opaque = np.asarray(image.getchannel("A"), float) / 255
        # Tablets export light ink on nothing, which would vanish on white.
        few = 0 < opaque.sum() < opaque.size / 2
        paper = "black" if few and (levels * opaque).sum() > 200 * opaque.sum() else "white"
        image = Image.alpha_composite(Image.new("RGBA", image.size, paper), image)
    # Pillow would cut sixteen bits off at 255.
    if image.mode.startswith("I"):
        return np.asarray(np.asarray(image).clip(0, 65535) // 257, np.uint8)
    return np.array(image.convert("L"))


def grey_of_array(array: np.ndarray) -> np.ndarray:
    """Grey (H, W) uint8 of an array (H, W), (H, W, 3) or (H, W, 4).

    Values are integers up to 255, floats up to 1, or booleans. Raises DataError for anything else.
    """
    from PIL import Image

    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise DataError(f"an array of shape {array.shape} is no picture; "
                        "expected (H, W), (H, W, 3) or (H, W, 4)")
    if not array.size or not np.isfinite(array).all():
        raise DataError("a picture must have pixels, all of them finite")
    if array.dtype.kind in "fb" and array.max() <= 1:
        array = array * 255.0
    return grey_of(Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)))


def ink_levels(array: np.ndarray) -> np.ndarray:
    """Grey (H, W) uint8, dark on light or light on dark, as ink levels (255 = ink), cropped.

    Paper is what most pixels are. Raises DataError for a blank picture.
    """
    levels = 255 - array if np.median(array) > 127 else array
    ink = levels > INK
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        raise DataError("the picture is blank")
    return np.ascontiguousarray(levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


# --- folders and archives ------------------------------------------------------------------------


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
