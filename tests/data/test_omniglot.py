"""Letters of Omniglot as glyphs."""

import io
import tarfile

import numpy as np
import pytest

from mmlib.data.omniglot import ARCHIVE, HELD_OUT, letters

K = "START\n10,-20,0\n10,-60,5\nBREAK\n30,-20,9\n10,-40,12\n30,-60,20\nBREAK\n"
J = "START\n20,-20,0\n20,-60,5\n10,-70,9\nBREAK\n20,-10,9\n21,-10,10\nBREAK\n"


@pytest.fixture
def archive(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_DATA", str(tmp_path))
    (tmp_path / "ink").mkdir()
    files = {"Latin/character11/0693_01.txt": K, "Latin/character11/0693_17.txt": K,
             "Latin/character10/0692_01.txt": J, "Latin/character01/0683_01.txt": K,
             "Greek/character04/0500_02.txt": K}
    with tarfile.open(tmp_path / "ink" / ARCHIVE, "w:xz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"omniglot_strokes_small/x1/strokes/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def test_letters_stand_in_their_place(archive):
    found = letters(range(HELD_OUT.start))
    assert set(found) == {"K", "J", r"\delta"}
    assert list(found["K"]) == ["omniglot-Latin-1"]
    glyph = found["K"]["omniglot-Latin-1"]
    assert (glyph.top, glyph.bottom) == pytest.approx((-1.12, 0.05))
    assert glyph.points[:, 0].min() == 0
    assert np.bincount(glyph.stroke).tolist() == [2, 3]
    assert found["J"]["omniglot-Latin-1"].stroke.max() == 0  # no dot
    assert list(letters(HELD_OUT)) == ["K"]


def test_without_the_archive_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_DATA", str(tmp_path))
    assert letters(range(99)) == {}
