"""Files are written whole or not at all."""

import dataclasses
import errno
import json
import os

import pytest

from mmlib.store import files
from mmlib.store.files import RunError, from_json, to_json, write_atomic


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


@pytest.mark.parametrize(
    ("code", "place", "variable"),
    [
        (errno.EROFS, "results/runs/x/config.json", "MMLIB_RESULTS"),
        (errno.ENOSPC, "results/records.csv", "MMLIB_RESULTS"),
        (errno.EACCES, "figures/a.svg", "MMLIB_FIGURES"),
        (errno.EROFS, "packs/x.safetensors", "MMLIB_CACHE"),
        (errno.EDQUOT, "packs/x.safetensors", "MMLIB_CACHE"),
    ],
)
@pytest.mark.parametrize("step", ["mkdir", "replace"])
def test_a_disk_that_cannot_be_written_says_which_variable_to_set(
        code, place, variable, step, tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MMLIB_FIGURES", str(tmp_path / "figures"))

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.Path if step == "mkdir" else files.os, step, fail)
    with pytest.raises(RunError, match=f"set {variable} to a folder that can be written") as error:
        write_atomic(tmp_path / place, "x")
    assert "\n" not in str(error.value)
    assert ("make room" in str(error.value)) == (code in files.FULL)


def test_the_recogniser_that_ships_is_found_wherever_results_are(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "elsewhere"))
    in_checkout = files.shipped_weights()
    assert in_checkout == files.project_root() / "results" / "checkpoints" / in_checkout.name
    package = tmp_path / "site" / "mmlib"
    monkeypatch.setattr(files, "__file__", str(package / "store" / "files.py"))
    own = tmp_path / "elsewhere" / "checkpoints" / in_checkout.name
    assert files.shipped_weights() == own, "there is none: this one is named"
    for path in (package / in_checkout.name, own):  # installed; one's own goes first
        path.parent.mkdir(parents=True)
        path.touch()
        assert files.shipped_weights() == path
