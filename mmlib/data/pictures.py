"""One picture, as a file, an image or an array, to grey levels and ink levels."""

import contextlib
import io
import struct

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps, UnidentifiedImageError

from mmlib.data.errors import DataError

MAX_PIXELS = 60_000_000
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "HEIF")
COLOURED = 1.5  # times the detail of grey that a colour must show to be taken for it
# What other files begin with, from byte 0 or, for the phone's formats, 4.
OTHERS = {
    b"%PDF": "a PDF, not a picture; save the page as PNG or JPEG",
    b"ftypavif": "an AVIF that Pillow cannot read here; save it as PNG or JPEG",
    b"ftyp": "a HEIC (HEIF) picture; `pip install pillow-heif`, or save it as PNG or JPEG",
}


def decode(content: bytes) -> np.ndarray:
    """Grey (H, W) uint8 of a picture's file, as `grey_of` gives it. Raises DataError."""
    return grey_of(opened(content))


def opened(content: bytes) -> Image.Image:
    """A picture's file as a PIL image, upright by its EXIF orientation.

    Pillow reads `FORMATS`, and of several frames the first. HEIC needs the package
    pillow-heif. Raises DataError, with the remedy, where it fails.
    """
    if content[4:8] == b"ftyp":
        with contextlib.suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{image.width} x {image.height} pixels are too many")
            image.load()
            return upright(image)
    except UnidentifiedImageError:
        raise DataError(f"unreadable picture: {_other(content)}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"unreadable picture ({error})") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise DataError(f"unreadable picture, damaged or cut off ({error}); save or copy it again"
                        ) from None


def _other(content: bytes) -> str:
    """What a file is that is no picture, and what to do."""
    for start, what in OTHERS.items():
        if content[:4] == start or content[4:12].startswith(start):
            return what
    if not content:
        return "an empty file; save or copy it again"
    known = (b"\x89PNG", b"\xff\xd8", b"BM", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
    if content.startswith(known):
        return "damaged or cut off; save or copy it again"
    text = min(content[:1000]) >= 9  # no control bytes below the tab
    what = "text" if text else "no picture of a kind that can be read"
    return f"{what}; save the picture as PNG or JPEG"


def grey_of(image: Image.Image) -> np.ndarray:
    """Grey (H, W) uint8 of a PIL image, upright by its EXIF orientation.

    What is transparent becomes white; it becomes black where the opaque part is light and small.
    """
    image = upright(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        levels = np.asarray(image.convert("L"), float)
        opaque = np.asarray(image.getchannel("A"), float) / 255
        # Tablets export light ink on nothing, which would vanish on white.
        few = 0 < opaque.sum() < opaque.size / 2
        paper = "black" if few and (levels * opaque).sum() > 200 * opaque.sum() else "white"
        image = Image.alpha_composite(Image.new("RGBA", image.size, paper), image)
    # Pillow would cut sixteen bits off at 255, and fractions at 1.
    if image.mode.startswith("I"):
        return np.asarray(np.asarray(image).clip(0, 65535) // 257, np.uint8)
    if image.mode == "F":
        levels = np.nan_to_num(np.asarray(image), nan=0.0, posinf=0.0, neginf=0.0).clip(0)
        return np.asarray(levels / max(float(levels.max()), 1e-9) * 255, np.uint8)
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))
    return _grey_of_colours(image.convert("RGB"))


def upright(image: Image.Image) -> Image.Image:
    """A PIL image, turned as its EXIF orientation says: a telephone stores what its sensor saw."""
    return ImageOps.exif_transpose(image) if image.getexif().get(274, 1) != 1 else image


def _grey_of_colours(image: Image.Image) -> np.ndarray:
    """Grey (H, W) of a picture in RGB; or red, green or blue alone, where only that shows the ink.

    Yellow on white, and red on a blue of the same brightness, vanish in grey.
    """
    small = image.copy() if max(image.size) <= 500 else image.reduce(max(image.size) // 500 + 1)
    detail = []
    for channel in (small.convert("L"), *small.split()):
        wide = channel.filter(ImageFilter.BoxBlur(max(small.size) // 12 + 1))
        change = np.asarray(ImageChops.difference(channel, wide), float)
        detail.append(float((change**2).mean() ** 0.5))
    best = int(np.argmax(detail[1:]))
    if detail[1 + best] > COLOURED * detail[0]:
        return np.array(image.getchannel(best))
    return np.array(image.convert("L"))


def image_of_array(array: np.ndarray) -> Image.Image:
    """A PIL image of an array (H, W), (H, W, 3) or (H, W, 4).

    Values are integers up to 255, floats up to 1, or booleans. Raises DataError for anything else.
    """
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise DataError(f"an array of shape {array.shape} is no picture; "
                        "expected (H, W), (H, W, 3) or (H, W, 4)")
    if not array.size or not np.isfinite(array).all():
        raise DataError("a picture must have pixels, all of them finite")
    if array.dtype.kind in "fb" and array.max() <= 1:
        array = array * 255.0
    return Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))


def ink_is_light(grey: np.ndarray) -> bool:
    """Whether ink is lighter than paper: ink is what is locally the minority.

    Differences from a wide local median are skewed to the side of the ink, however the page is lit.
    """
    from skimage.filters import rank

    small = Image.fromarray(grey)
    small.thumbnail((200, 200), Image.Resampling.BOX)
    pixels = np.array(small)  # writable, which scikit-image wants
    side = max(9, max(pixels.shape) // 4) | 1
    paper = rank.median(pixels, np.ones((side, side), np.uint8))
    skew = ((pixels.astype(float) - paper) ** 3).sum()
    return bool(skew > 0) if skew else bool(np.median(pixels) < 128)
