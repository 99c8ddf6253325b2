"""Files are written whole or not at all."""

import dataclasses
import json

import pytest

from mmlib.store import files
from mmlib.store.files import from_json, to_json, write_atomic


def test_write_atomic_replaces_whole_files_and_leaves_nothing_beside_them(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_atomic(path, "new")
    assert path.read_text() == "old"
    write_atomic(path, b"new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@dataclasses.dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    rate: float | None = 0.5


def test_a_configuration_comes_back_from_its_json():
    for config in (Outer(), Outer(Inner((3,)), None)):
        assert from_json(Outer, json.loads(to_json(config))) == config
    with pytest.raises(TypeError, match="speed"):
        from_json(Outer, {"speed": 1})
