"""Folders of one's own in the forms that people have: what is used, and what is named instead."""

import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmlib.data.captions import InkFile, read_folder
from mmlib.data.errors import DataError
from mmlib.data.prepare import load_own

INKML = '<ink><annotation type="truth">{}</annotation><trace>0 0, 9 9, {} 4</trace></ink>'


def draw(path, end):
    image = Image.new("L", (60, 40), 255)
    ImageDraw.Draw(image).line((5, 5, end, 30), fill=0, width=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    for number, name in enumerate("abc"):
        draw(tmp_path / "mine" / "img" / f"{name}.png", 30 + number * 10)
    return tmp_path / "mine"


def labelled(path):
    return {item[0].id: item[0].latex for item in read_folder(path) if isinstance(item, tuple)}


def reasons(path):
    return [str(item) for item in read_folder(path) if isinstance(item, DataError)]


ROWS = {"a": "x", "b": "y^2", "c": r"\frac{1}{2}"}
TABBED = "".join(f"{name}\t{label}\n" for name, label in ROWS.items())
FORMS = {
    "caption.txt": TABBED,
    "captions.txt": TABBED,
    "labels.txt": TABBED.replace("\t", ".png\t"),
    "train_labels.txt": TABBED.replace("\t", ".png "),
    "ground_truth.txt": "\ufeff" + TABBED.replace("\n", "\r\n"),
    "by_content.txt": TABBED.replace("\t", ".png "),
    "any.tsv": "filename\tlatex\n" + TABBED,
    "any.csv": 'image,split,formula\na.png,train,x\nb.png,train,y^2\nc.png,test,"\\frac{1}{2}"\n',
    "headless.csv": "a,x\nb,y^2\nc,\\frac{1}{2}\n",
    "any.jsonl": "\n".join(json.dumps({"file_name": f"{n}.png", "text": t})
                           for n, t in ROWS.items()),
    "labels.json": json.dumps(ROWS),
    "list.json": json.dumps([{"id": name, "label": text} for name, text in ROWS.items()]),
    "img/labels.txt": TABBED,
}


@pytest.mark.parametrize("name", FORMS)
def test_labels_are_found_by_the_usual_names_and_forms(folder, name):
    (folder / name).write_bytes(FORMS[name].encode())
    assert labelled(folder) == ROWS
    assert reasons(folder) == []


@pytest.mark.parametrize("prefix", ["img/", "./img/", "mine/img/", "/data/x/img/", "img\\"])
def test_names_may_have_a_path(folder, prefix):
    (folder / "caption.txt").write_text(f"{prefix}a.png\tx\n{prefix}b.png\ty\n{prefix}c\tz\n")
    assert labelled(folder) == {"a": "x", "b": "y", "c": "z"}


@pytest.mark.parametrize("place", [".", "images", "img", "train/images", "deep/er"])
def test_pictures_may_lie_in_any_folder(folder, place):
    for name in "de":
        draw(folder / place / f"{name}.png", 55)
    (folder / "caption.txt").write_text(TABBED + "d\td\ne.png\te\n")
    assert labelled(folder) == {**ROWS, "d": "d", "e": "e"}


def test_an_empty_label_is_no_label(folder):
    (folder / "labels.txt").write_text("a\t\nb\t$ $\nc\t{}\n")
    assert labelled(folder) == dict.fromkeys("abc")
    assert load_own(folder).tokens(0) is None


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.md", "# mine", "notes.md is not used: neither ink, a picture nor labels"),
        ("notes.txt", "written on Monday\n", "notes.txt is not used"),
        ("labels.txt", TABBED + "d\tx\n", "labels.txt names 'd', and there is no such picture"),
        ("labels.txt", "a\tx\nb\ty\n", "c.png is left out: no line of labels.txt names it"),
        ("labels.txt", TABBED + "nothing\n", "labels.txt, line 4: no tab after the name"),
        ("labels.txt", TABBED + "a\tz\n", "there is a picture 'a' before it"),
        ("labels.json", "{", "labels.json: labels cannot be read"),
        ("labels.jsonl", '{"a": 1}', "item 1 has no name or no label"),
        ("labels.json", "[" * 100_000, "labels.json: labels cannot be read"),
        ("labels.txt", b"a\t\xff", "labels.txt: captions are not UTF-8"),
        ("img/d.png", b"", "d.png: unreadable picture"),
    ],
)
def test_what_is_not_used_is_named_with_the_reason(folder, name, content, reason):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert any(reason in said for said in reasons(folder)), reasons(folder)


def test_hidden_files_are_nobodys_loss(folder):
    for name in (".DS_Store", "img/._a.png", "__MACOSX/a.png", "Thumbs.db", ".git/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert (len(labelled(folder)), reasons(folder)) == (3, [])


def test_ink_and_pictures_side_by_side_both_count(folder):
    (folder / "labels.txt").write_text(TABBED + "e.xml\t3\na.inkml\t8\n")
    (folder / "a.inkml").write_text(INKML.format("4", 8))
    (folder / "d.inkml").write_text(INKML.format("5", 2))
    (folder / "e.xml").write_text(INKML.format("", 3))
    (folder / "f.dat").write_text('.SEGMENT F 0 ? "6"\n.PEN_DOWN\n0 0\n5 5\n')
    (folder / "more").mkdir()
    (folder / "more" / "d.inkml").write_text(INKML.format("7", 2))
    assert sum(isinstance(item, InkFile) for item in read_folder(folder)) == 5
    pack = load_own(folder)
    found = dict(zip(pack.ids, pack.latex, strict=True))
    assert found == {"img/a.png": "x", "b": "y^2", "c": r"\frac{1}{2}", "a": "8", "d": "5",
                     "e": "3", "f": "6", "more/d.inkml": "7"}
    heights = {key: np.ptp(pack[i].points[:, 1]) for i, key in enumerate(pack.ids)}
    assert 0.5 < heights["d"] < 2
    assert pack.traced


def pack_zip(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())


@pytest.mark.parametrize("prefix", ["", "mine/", "a/b/"])
def test_a_zip_is_the_same_as_its_folder(folder, prefix):
    (folder / "labels.txt").write_text(TABBED)
    pack_zip(folder, folder.parent / "mine.zip", prefix)
    assert labelled(folder.parent / "mine.zip") == labelled(folder)
    assert load_own(folder.parent / "mine.zip").latex == load_own(folder).latex


def entry(name, mode=0o644, content=b"x"):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info, content


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("../a.png")], "points outside"),
        ([entry("/etc/passwd")], "points outside"),
        ([entry("a", 0o120777, b"/etc/passwd")], "is a link"),
        ([entry("big", content=bytes(33 * 2**20))], "size limits"),
        (None, "damaged, locked"),
    ],
)
def test_a_zip_is_not_trusted(tmp_path, entries, reason):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in entries or [entry("a.txt", content=b"hello" * 99)]:
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    if entries is None:
        data = bytearray(path.read_bytes())
        data[40] ^= 255
        path.write_bytes(data)
    with pytest.raises(DataError, match=reason):
        list(read_folder(path))


def test_a_tar_and_a_zip_say_the_same(folder):
    (folder / "labels.csv").write_text(FORMS["headless.csv"])
    with tarfile.open(folder.parent / "mine.tar.gz", "w:gz") as archive:
        archive.add(folder, "mine")
    pack_zip(folder, folder.parent / "mine.zip")
    assert labelled(folder.parent / "mine.tar.gz") == labelled(folder.parent / "mine.zip") == ROWS
