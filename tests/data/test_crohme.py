"""CROHME's files by name, their writers and sources."""

import tarfile

import pytest

from mmlib.data import crohme
from mmlib.data.captions import InkFile, read_folder
from mmlib.data.errors import DataError
from mmlib.formula.ink import Ink, InkError


def test_archive_and_folder_read_alike(tmp_path, inkml):
    files = [
        ("set/HAMEX/b.inkml", inkml),
        ("set/HAMEX/a.inkml", "<ink/>"),
        ("set/notes.txt", "-"),
        ("set/._a.inkml", ""),
    ]
    for name, text in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with tarfile.open(tmp_path / "set.tar.xz", "w:xz") as tar:
        for name, _ in files:
            tar.add(tmp_path / name, name)
    for source in (tmp_path / "set.tar.xz", tmp_path / "set"):
        found = [file for file in read_folder(source) if isinstance(file, InkFile)]
        bad, good = sorted(found, key=lambda file: file.name)
        with pytest.raises(InkError, match=r"HAMEX/a\.inkml"):
            crohme.read_member(bad.name, bad.content)
        good = crohme.read_member(good.name, good.content)
        assert isinstance(good, Ink)
        assert (good.id, good.source, good.writer) == ("b", "HAMEX", "HAMEX/w1")


def test_writers_are_named_by_source(inkml):
    nameless = inkml.replace('<annotation type="writer">w1</annotation>', "").encode()
    assert crohme.read_member("t/MathBrush/200922-949-30.inkml",
                              nameless).writer == "MathBrush/200922-949"
    assert crohme.read_member("t/extension/200922-949-30.inkml", nameless).writer is None
    assert crohme.read_member("one.inkml", inkml.encode()).writer == "w1"


def test_a_missing_data_set_says_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"train_2014\.inkml\.tar\.xz.*MMLIB_DATA"):
        crohme.find("train_2014")
