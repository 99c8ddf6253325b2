"""One picture, as a file, an image or an array, to grey levels and ink levels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from mmlib.data.errors import DataError, NothingError

if TYPE_CHECKING:
    from PIL.Image import Image

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


def ink_is_light(grey: np.ndarray) -> bool:
    """Whether ink is lighter than paper: ink is what is locally the minority.

    Differences from a wide local median are skewed to the side of the ink, however the page is lit.
    """
    from PIL import Image
    from skimage.filters import rank

    small = Image.fromarray(grey)
    small.thumbnail((400, 400), Image.Resampling.BOX)
    pixels = np.array(small)  # writable, which scikit-image wants
    side = max(9, max(pixels.shape) // 4) | 1
    paper = rank.median(pixels, np.ones((side, side), np.uint8))
    skew = ((pixels.astype(float) - paper) ** 3).sum()
    return bool(skew > 0) if skew else bool(np.median(pixels) < 128)


def ink_levels(array: np.ndarray) -> np.ndarray:
    """Grey (H, W) uint8, dark on light or light on dark, as ink levels (255 = ink), cropped.

    Raises NothingError for a blank picture.
    """
    levels = array if ink_is_light(array) else 255 - array
    ink = levels > INK
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        raise NothingError("the picture is blank")
    return np.ascontiguousarray(levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
