"""Pictures with captions, where there is no ink: BTTR's and CoMER's folders, TSV + PNG, or one's own.

Layouts, in a folder or a tar archive, at any depth:
`img/NAME.png|bmp|jpg` beside `caption.txt` (`NAME<TAB>tokens`), and `NAME.png` beside `*.tsv`
(`NAME<TAB>latex`). Where there is no caption file at all, every picture is read, without a label.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from mmlib.data import DataError
from mmlib.data.crohme import MAX_MEMBER, iter_archive
from mmlib.data.pack import PackError, code_version, read_tensors
from mmlib.data.photo import clean, is_photo
from mmlib.formula import latex as tex
from mmlib.store.runs import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = "mmlib-pictures-1"
SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg")
MAX_PIXELS = 2**25
# What other files begin with, from byte 0 or, for the phone's formats, 4.
OTHERS = {b"%PDF": "a PDF, not a picture; save the page as PNG or JPEG", b"GIF8": "a GIF; save it as PNG or JPEG",
          b"II*\0": "a TIFF; save it as PNG or JPEG", b"MM\0*": "a TIFF; save it as PNG or JPEG",
          b"RIFF": "a WebP; save it as PNG or JPEG", b"ftypavif": "an AVIF; save it as PNG or JPEG",
          b"ftyp": "a HEIC (HEIF) picture; save it as PNG or JPEG"}
INK = 25  # a pixel with a tenth of full ink counts as ink where a picture is cropped


@dataclass(frozen=True, eq=False)
class Picture:
    """One expression's picture: array (H, W) uint8, ink 255 on 0, cropped to the ink; labels as in `Ink`."""

    id: str
    array: np.ndarray
    tokens: tuple[str, ...] | None = None
    latex: str | None = None
    label_error: str | None = None


def ink_levels(array: np.ndarray) -> np.ndarray:
    """Grey (H, W) uint8, dark on light or light on dark, as ink levels (255 = ink), cropped to the ink.

    Paper is what most pixels are. Raises DataError for a blank picture.
    """
    levels = 255 - array if np.median(array) > 127 else array
    rows, columns = np.flatnonzero((levels > INK).any(1)), np.flatnonzero((levels > INK).any(0))
    if not len(rows):
        raise DataError("the picture is blank")
    return np.ascontiguousarray(levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def grey_of(image: Image) -> np.ndarray:
    """Grey (H, W) uint8 of a PIL image: upright by its EXIF orientation, transparency on white, or on black where what is opaque
    is light and the less."""
    from PIL import Image, ImageOps

    if image.getexif().get(274, 1) != 1:  # a telephone held sideways
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        levels, opaque = np.asarray(image.convert("L"), float), np.asarray(image.getchannel("A"), float) / 255
        light_ink = 0 < opaque.sum() < opaque.size / 2 and (levels * opaque).sum() > 200 * opaque.sum()
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black" if light_ink else "white"), image)
    if image.mode.startswith("I"):  # sixteen bits, which Pillow would cut off at 255
        return np.asarray(np.asarray(image).clip(0, 65535) // 257, np.uint8)
    return np.array(image.convert("L"))


def decode(content: bytes) -> np.ndarray:
    """Grey (H, W) uint8 of a PNG, JPEG or BMP file, as `grey_of` has it; DataError, with the remedy, where it fails."""
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
        raise DataError(f"unreadable picture, damaged or cut off ({error}); save or copy it again") from None


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
    return f"{'text' if text else 'neither a PNG, a JPEG nor a BMP'}; save the picture as PNG or JPEG"


def _labels(name: str, content: bytes) -> Iterator[tuple[str, str] | DataError]:
    """The (picture name, latex) rows of a caption file."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        yield DataError(f"{name}: captions are not UTF-8 ({error}); convert the file")
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            key, tab, label = line.partition("\t")
            yield (
                (key.strip(), label.strip())
                if tab
                else DataError(f"{name}, line {number}: no tab after the name")
            )


def read_pictures(path: str | Path, photos: bool = False) -> Iterator[Picture | DataError]:
    """Pictures of a folder or archive in the order of the captions; what cannot be read comes as DataError. With `photos`, a
    photograph among them is cleaned, as `recognize` does.

    A caption without a picture, an unreadable or blank picture and a broken caption line are such errors; a
    caption that is no valid LaTeX is not: its picture comes with `tokens` None and `label_error`.
    """
    path = Path(path)
    files: Mapping[str, Path | bytes]
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}
    else:
        files = dict(iter_archive(path))

    def load(name: str) -> bytes:
        content = files[name]
        if isinstance(content, bytes):
            return content
        if content.stat().st_size > MAX_MEMBER:
            raise DataError(f"{content.stat().st_size} bytes are too many")
        return content.read_bytes()

    # Pictures by folder and name, with and without the extension.
    found: dict[tuple[str, str], str] = {}
    for name in files:
        file = PurePosixPath(name)
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            found.setdefault((str(file.parent), file.name), name)
            found.setdefault((str(file.parent), file.stem), name)
    captions = [n for n in files if PurePosixPath(n).name == "caption.txt" or n.lower().endswith(".tsv")]
    rows: Iterator[tuple[str, tuple[str, str | None] | DataError]]
    if captions:
        rows = ((n, row) for n in captions for row in _labels(n, load(n)))
    else:
        rows = ((n, (PurePosixPath(n).name, None)) for n in dict.fromkeys(found.values()))
    seen: set[str] = set()
    for origin, row in rows:
        if isinstance(row, DataError):
            yield row
            continue
        folder = PurePosixPath(origin).parent
        named = next((found[k] for f in (folder, folder / "img") if (k := (str(f), row[0])) in found), None)
        if named is None:
            yield DataError(f"{path}: {origin} names {row[0]!r}, and there is no such picture")
            continue
        if (key := PurePosixPath(named).stem) in seen:
            yield DataError(f"{path}: {named} is left out: there is a picture {key!r} before it; give each its own name and line")
            continue
        try:
            grey = decode(load(named))
            array = ink_levels(clean(grey) if photos and is_photo(grey) else grey)
        except DataError as error:
            yield DataError(f"{path}: {named}: {error}")
            continue
        seen.add(key)  # not before it could be read: another of its name may be whole
        yield _labelled(key, array, row[1])


def _labelled(key: str, array: np.ndarray, latex: str | None) -> Picture:
    if latex is None:
        return Picture(key, array)
    try:
        return Picture(key, array, tuple(tex.canonical(latex)), latex)
    except tex.LatexError as error:
        return Picture(key, array, None, latex, str(error))


def write_picture_pack(pictures: Iterable[Picture], path: str | Path, split: str) -> None:
    """Write pictures as one safetensors file, atomically; PackError for duplicate ids."""
    from safetensors.numpy import save

    pictures = list(pictures)
    if len({p.id for p in pictures}) != len(pictures):
        raise PackError(f"{path}: two pictures have the same id; give each its own name")
    arrays = {
        "pixels": np.concatenate([p.array.ravel() for p in pictures] or [np.zeros(0, np.uint8)]),
        "shapes": np.array([p.array.shape for p in pictures], dtype=np.int32).reshape(-1, 2),
    }
    strings = {
        "ids": [p.id for p in pictures],
        "tokens": [p.tokens for p in pictures],
        "latex": [p.latex for p in pictures],
        "label_errors": [p.label_error for p in pictures],
    }
    digest = hashlib.sha256(
        b"".join(a.tobytes() for a in arrays.values()) + json.dumps(strings).encode()
    ).hexdigest()
    header = {"split": split, "code": code_version(), "digest": digest, **strings}
    write_atomic(Path(path), save(arrays, {"format": FORMAT, "header": json.dumps(header)}))


@dataclass(frozen=True, eq=False)
class PicturePack:
    """An opened pack of pictures; `pack[i]` is a Picture (a view). shapes (E, 2): height, width in pixels."""

    path: Path
    split: str
    pixels: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    ids: list[str]
    labels: list[list[str] | None]
    latex: list[str | None]
    label_errors: list[str | None]
    code: str
    digest: str

    @classmethod
    def open(cls, path: str | Path) -> PicturePack:
        """Open a pack of pictures; PackError where it is missing, damaged or something else."""
        arrays, header = read_tensors(Path(path), FORMAT)
        try:
            pixels, shapes = arrays["pixels"], arrays["shapes"]
            offsets = np.concatenate([[0], np.cumsum(shapes.prod(1, dtype=np.int64))])
            strings = ids, tokens, latex, errors = [header[k] for k in ("ids", "tokens", "latex", "label_errors")]
            if (
                pixels.dtype != np.uint8
                or offsets[-1] != len(pixels)
                or any(len(s) != len(shapes) for s in strings)
            ):
                raise ValueError("its parts do not fit together")
            return cls(Path(path), header["split"], pixels, offsets, shapes, ids, tokens, latex, errors, header["code"],
                       header["digest"])
        except (KeyError, ValueError, TypeError) as error:
            raise PackError(f"{path}: {error}; delete it and run `mmlib data prepare`") from None

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, i: int) -> tuple[str, ...] | None:
        """Canonical tokens of picture i, None where it has no valid label."""
        label = self.labels[i]
        return None if label is None else tuple(label)

    def __getitem__(self, i: int) -> Picture:
        i = range(len(self))[i]
        array = self.pixels[self.offsets[i] : self.offsets[i + 1]].reshape(self.shapes[i])
        return Picture(self.ids[i], array, self.tokens(i), self.latex[i], self.label_errors[i])
