"""Archives that are not trusted: what is read, and what is refused."""

import io
import tarfile

import pytest

from mmlib.data import archives
from mmlib.data.errors import DataError


def archive(path, members, mode="w:xz"):
    """Write a tar of (name, content) pairs and ready TarInfo objects."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_archive_members(tmp_path, mode):
    path = archive(tmp_path / "a.tar",
                   [special("set", tarfile.DIRTYPE), ("set/b.inkml", b"B"), ("set/a", b"")], mode)
    assert list(archives.iter_archive(path)) == [("set/b.inkml", b"B"), ("set/a", b"")]


@pytest.mark.parametrize(
    "member",
    [
        ("/etc/x.inkml", b"x"),
        ("set/../../x.inkml", b"x"),
        ("set\\..\\x.inkml", b"x"),
        special("set/x.inkml", tarfile.SYMTYPE, "/etc/passwd"),
        special("set/x.inkml", tarfile.LNKTYPE, "set/y"),
        special("set/x.inkml", tarfile.CHRTYPE),
        special("set/x.inkml", tarfile.FIFOTYPE),
    ],
)
def test_unsafe_members_are_refused(tmp_path, member):
    path = archive(tmp_path / "a.tar.xz", [("set/good.inkml", b"x"), member])
    with pytest.raises(DataError, match=r"a\.tar\.xz: member .*x\.inkml"):
        list(archives.iter_archive(path))


def test_size_limits(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.tar.xz", [("a", b"12345"), ("b", b"12345"), ("c", b"12345")])
    for limit, value in (("MAX_MEMBER", 4), ("MAX_TOTAL", 14), ("MAX_MEMBERS", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(archives, limit, value)
            with pytest.raises(DataError, match="beyond the size limits"):
                list(archives.iter_archive(path))


def test_damaged_archives(tmp_path):
    path = archive(tmp_path / "a.tar.xz", [(f"{i}", bytes(range(256)) * i) for i in range(99)])
    content = path.read_bytes()
    for name, broken in (("cut", content[: len(content) // 2]), ("text", b"hello"), ("empty", b"")):
        path = tmp_path / f"{name}.tar.xz"
        path.write_bytes(broken)
        with pytest.raises(DataError, match=rf"{name}\.tar\.xz: damaged, locked or no archive"):
            list(archives.iter_archive(path))
    with pytest.raises(DataError, match="there is no such archive"):
        list(archives.iter_archive(tmp_path / "gone.tar"))
