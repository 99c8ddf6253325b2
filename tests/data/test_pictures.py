import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mmlib.data.captions import read_folder
from mmlib.data.errors import DataError
from mmlib.data.imitate import imitate
from mmlib.data.photo import see
from mmlib.data.pictures import MAX_PIXELS, decode, grey_of, image_of_array
from mmlib.data.prepare import load_own
from mmlib.data.trace import traced

LEVELS = np.zeros((6, 9), np.uint8)
LEVELS[2:5, 3:8] = [[255, 0, 200, 0, 255], [0, 255, 0, 90, 0], [255, 10, 0, 0, 60]]
CROPPED = LEVELS[2:5, 3:8]


def same_ink(found, levels=CROPPED):
    """Whether ink and its size are what a picture's ink levels are traced to."""
    (ink, size), (other, other_size) = found, traced(levels)
    return size == other_size and np.array_equal(ink.points, other.points)


def encoded(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """BTTR's layout, with one picture of each kind and one of each fault."""
    root = tmp_path / "set"
    (root / "img").mkdir(parents=True)
    for name, content in {
        "a.bmp": encoded(LEVELS, "BMP"),  # light on dark, as BTTR has it
        "b.png": encoded(255 - LEVELS),  # dark on light
        "blank.png": encoded(np.full((4, 4), 255, np.uint8)),
        "broken.png": encoded(LEVELS)[:40],
        "c.d.png": encoded(LEVELS),
    }.items():
        (root / "img" / name).write_bytes(content)
    captions = ["a\tx ^ { 2 }", "b.png\ty", "", "gone\tx", "blank\tx", "broken\tx", "no tab",
                "c.d\tx }"]
    (root / "caption.txt").write_text("\n".join(captions) + "\n")
    return root


def test_caption_folder(folder):
    found = list(read_folder(folder))
    pictures = [p[0] for p in found if isinstance(p, tuple)]
    errors = " | ".join(str(p) for p in found if isinstance(p, DataError))
    assert [p.id for p in pictures] == ["a", "b", "c.d"]
    assert all(same_ink(p) for p in found if isinstance(p, tuple))
    assert [p.tokens for p in pictures] == [("x", "^", "{", "2", "}"), ("y",), None]
    assert pictures[2].latex == "x }"
    assert "}" in pictures[2].label_error
    assert len(found) == 7
    for words in (
        "'gone'",
        "blank.png: the picture is blank",
        "broken.png: unreadable",
        "caption.txt, line 7: no tab",
    ):
        assert words in errors


def test_tsv_folder_and_archive(tmp_path):
    root = tmp_path / "test_x"
    root.mkdir()
    (root / "p1.png").write_bytes(encoded(255 - LEVELS))
    (root / "p2.jpg").write_bytes(encoded(255 - LEVELS, "JPEG", quality=95))
    (root / "groundtruth.tsv").write_text("p1\t\\frac{a}{b}\np2\tz\n")
    with tarfile.open(tmp_path / "t.tar.xz", "w:xz") as tar:
        tar.add(root, "test_x")
    for source in (root, tmp_path / "t.tar.xz"):
        first, (second, _) = read_folder(source)
        assert (first[0].id, first[0].latex) == ("p1", "\\frac{a}{b}")
        assert same_ink(first)
        assert second.tokens == ("z",)


def test_own_folder_without_captions(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(encoded(LEVELS))
    ((picture, _),) = read_folder(tmp_path / "mine")
    assert (picture.id, picture.latex, picture.tokens) == ("photo", None, None)


def test_own_folder_takes_every_form_of_picture_that_can_be_read(tmp_path):
    forms = {"a.gif": "GIF", "b.webp": "WEBP", "c.tif": "TIFF", "d.TIFF": "TIFF"}
    for name, form in forms.items():
        options = {"lossless": True} if form == "WEBP" else {}
        (tmp_path / name).write_bytes(encoded(255 - LEVELS, form, **options))
    (tmp_path / "labels.txt").write_text("".join(f"{name} x\n" for name in forms))
    found = list(read_folder(tmp_path))
    assert [ink.id for ink, _ in found] == ["a", "b", "c", "d"]
    assert all(same_ink(p) and p[0].tokens == ("x",) for p in found)


def test_photographs_in_a_folder_are_cleaned(tmp_path):
    levels = np.zeros((120, 260), np.uint8)
    levels[40:80, 60:66] = levels[57:63, 100:150] = levels[40:80, 190:196] = 255  # 1 - 1
    (tmp_path / "a.png").write_bytes(encoded(imitate(levels, np.random.default_rng(0), tilt=0.0)))
    (tmp_path / "b.png").write_bytes(encoded(255 - levels))
    (raw, plain), (cleaned, same) = read_folder(tmp_path), read_folder(tmp_path, photos=True)
    assert same_ink(plain, see(255 - levels, False).levels)
    assert same_ink(same, see(255 - levels, False).levels)
    wide, narrow = (np.rint(ink.points * size).astype(int) for ink, size in (raw, cleaned))
    assert narrow.max(0).prod() < wide.max(0).prod() / 2  # the ink alone: no shadow is left
    skeleton = np.zeros(narrow.max(0) + 1, bool)
    skeleton[tuple(narrow.T)] = True
    assert ndimage.label(skeleton, np.ones((3, 3)))[1] == 3


def test_a_name_that_comes_twice_is_left_out_and_told(folder):
    (folder / "caption.txt").write_text("a\tx\nb\ty\na\tz\n")
    (first, _), (second, _), error, *_ = read_folder(folder)
    assert (first.latex, second.latex) == ("x", "y")
    assert "'a' before it" in str(error)
    (folder / "img" / "broken.jpg").write_bytes(encoded(LEVELS))
    (folder / "caption.txt").write_text("broken.png\tx\nbroken.jpg\ty\n")
    damaged, (whole, _), *_ = read_folder(folder)
    assert "unreadable" in str(damaged)
    assert whole.latex == "y"


def test_why_no_picture_can_be_used_is_told(folder):
    (folder / "caption.txt").write_text("ax\nby\ncz\ndz\n")
    with pytest.raises(DataError, match=r"line 1: no tab after the name.*line 3: .*; and 6 more"):
        load_own(folder)


def test_captions_must_be_text(folder):
    (folder / "caption.txt").write_bytes(b"a\t\xff\xfe")
    error, *_ = read_folder(folder)
    assert "not UTF-8" in str(error)


def test_decode_takes_every_mode():
    ink = Image.fromarray(255 - LEVELS)
    transparent = Image.new("RGBA", ink.size)
    transparent.putalpha(Image.fromarray(LEVELS))  # black ink on nothing
    white = Image.new("RGBA", ink.size, (255, 255, 255, 0))
    white.putalpha(Image.fromarray(LEVELS))  # white ink on nothing, as tablets export it
    deep = Image.fromarray((255 - LEVELS).astype(np.uint16) * 257)
    for image in (ink, ink.convert("RGB"), ink.convert("P"), ink.convert("RGBA"), transparent,
                  white, deep):
        file = io.BytesIO()
        image.save(file, "PNG")
        assert np.array_equal(see(decode(file.getvalue()), False).levels, CROPPED)


@pytest.mark.parametrize("turned", range(1, 9))
def test_pictures_are_upright_by_their_exif(turned, tmp_path):
    """A camera stores rows as its sensor has them and notes how to turn them: applied once, by
    every reader.
    """
    from mmlib.read.source import ink_of

    back = {1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
            6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}[turned]
    image = Image.fromarray(255 - LEVELS)
    stored = image.transpose(Image.Transpose[back]) if back else image
    exif = Image.Exif()
    exif[274] = turned
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode((tmp_path / "a.png").read_bytes()), 255 - LEVELS)
    (picture,) = read_folder(tmp_path)
    assert same_ink(picture)
    with Image.open(tmp_path / "a.png") as opened:
        for source in (tmp_path / "a.png", opened):
            assert np.array_equal(ink_of(source)[0], ink_of(255 - LEVELS)[0])


@pytest.mark.parametrize(("content", "what"), [
    (b"%PDF-1.7\n...", "a PDF, not a picture; save the page as PNG or JPEG"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "HEIC"),
    (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
    (b"", "an empty file"),
    (b"x^2 + 1\n", "text; save the picture"),
    (bytes(range(100, 200)) + bytes(40), "no picture of a kind"),
    (b"\xff\xd8\xff", "damaged or cut off"),
])
def test_what_is_no_picture_is_told_with_the_remedy(content, what):
    with pytest.raises(DataError, match="unreadable picture") as caught:
        decode(content)
    assert what in str(caught.value)
    assert "BytesIO" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_picture_that_is_cut_off_is_told(kind):
    whole = encoded(np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8), kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(DataError, match="damaged or cut off"):
            decode(whole[: int(share * len(whole))])


def test_decode_refuses(monkeypatch):
    with pytest.raises(DataError, match="unreadable"):
        decode(b"GIF89a" + bytes(20))
    huge = encoded(np.zeros((1, MAX_PIXELS + 1), np.uint8))
    with pytest.raises(DataError, match="too many"):
        decode(huge)


@pytest.mark.parametrize(("kind", "options"), [
    ("GIF", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}),
])
def test_other_kinds_are_read_where_pillow_reads_them(kind, options):
    whole = np.kron(255 - LEVELS, np.ones((4, 4), np.uint8))
    assert np.abs(decode(encoded(whole, kind, **options)).astype(int) - whole).max() <= 2


def test_a_picture_in_fractions():
    image = Image.fromarray((255 - LEVELS).astype(np.float32) / 255)
    assert np.abs(grey_of(image).astype(int) - (255 - LEVELS)).max() <= 1


@pytest.mark.parametrize(("paper", "pen"), [
    ((255, 255, 255), (240, 200, 40)), ((255, 255, 255), (120, 255, 120)),
    ((60, 90, 200), (200, 60, 30)), ((200, 60, 60), (60, 120, 120)), ((0, 0, 0), (0, 0, 255)),
])
def test_coloured_ink_is_seen_where_grey_hides_it(paper, pen):
    ink = np.zeros((60, 120), bool)
    ink[28:32, 20:100] = ink[15:45, 58:62] = True
    array = np.where(ink[..., None], pen, paper).astype(np.uint8)
    levels = see(grey_of(image_of_array(array))).levels
    assert levels.shape == (30, 80)
    assert (levels > 100).mean() == ink[15:45, 20:100].mean()
