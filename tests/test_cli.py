"""The command line builds the stages' own dataclasses, and says what went wrong in one line."""

import dataclasses
import subprocess
import sys
import types

import pytest

import mmlib
from mmlib import cli
from mmlib.data.errors import DataError
from mmlib.store.files import RunError, project_root
from mmlib.train.loop import Paused


@dataclasses.dataclass(frozen=True)
class Config:
    dataset: str = "synthetic"  # what to train on
    seed: int = 0
    rate: float = 1e-3  # peak learning rate, 100 % of it after warm-up
    wide: bool = False
    sizes: tuple[int, ...] = (8, 16)
    mask_share: tuple[float, float] = (0.0, 0.5)
    limit: int | None = None  # expressions

    @classmethod
    def preset(cls, profile, **overrides):
        return cls(**({"rate": 1e-4} if profile == "desk" else {}) | overrides)


@pytest.fixture
def calls(monkeypatch):
    """A stage that notes what it was called with."""
    calls = []

    def run(config, profile="desk", max_minutes=None, max_steps=None):
        calls.append((config, profile, max_minutes, max_steps))
        if max_steps:
            raise Paused("x: paused at 7 of 10 pictures; the same command goes on from here")
        return types.SimpleNamespace(name="x", summary={"loss": 0.5})

    module = types.SimpleNamespace(Config=Config, run=run)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: {"mmlib.train.pretrain": module}[name])
    return calls


def test_defaults_are_the_presets(calls, capsys):
    assert cli.main(["pretrain"]) == 0
    assert cli.main(["pretrain", "--profile", "desk"]) == 0
    assert calls == [(Config(), "smoke", None, None), (Config(rate=1e-4), "desk", None, None)]
    assert "done {'loss': 0.5}" in capsys.readouterr().out


def test_each_field_is_a_typed_option(calls, capsys):
    options = (
        "--dataset crohme --seed 3 --rate 0.5 --wide --sizes 4 5 6 --mask-share 0.1 0.2 --limit 10 --max-minutes 1.5 --max-steps 7"
    )
    assert cli.main(["pretrain", *options.split()]) == 0
    config = Config(dataset="crohme", seed=3, rate=0.5, wide=True, sizes=(4, 5, 6), mask_share=(0.1, 0.2), limit=10)
    assert calls == [(config, "smoke", 1.5, 7)]
    assert "paused" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--seed", "x"], ["--mask-share", "0.5"], ["--colour", "red"], ["--see", "1"]]
)
def test_a_wrong_option_is_refused(calls, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain", *wrong])
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err
    assert calls == []


def test_the_comments_behind_the_fields_are_the_help(calls, capsys):
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "what to train on" in out
    assert "peak learning rate, 100 % of it after warm-up" in out


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (RunError("run x is damaged"), "mmlib: run x is damaged"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), "a.png"),
        (
            type("InkError", (ValueError,), {})("a.inkml, line 3: no points"),
            "mmlib: a.inkml, line 3: no points",
        ),
    ],
)
def test_documented_errors_are_one_line(error, shown, monkeypatch, capsys):
    def fail(**_):
        raise error

    monkeypatch.setitem(sys.modules, "mmlib.data.prepare", types.SimpleNamespace(prepare=fail))
    assert cli.main(["data", "prepare"]) == 2
    err = capsys.readouterr().err
    assert shown in err
    assert err.count("\n") == 1


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(**_):
        raise ValueError("a bug")

    monkeypatch.setitem(sys.modules, "mmlib.data.prepare", types.SimpleNamespace(prepare=fail))
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["data", "prepare"])


def test_the_notebooks_get_their_parameters(monkeypatch):
    seen = []
    monkeypatch.setattr("scripts.reproduce.reproduce", lambda *args: seen.append(args))
    monkeypatch.setitem(sys.modules, "mmlib.show.diagrams", types.SimpleNamespace(write=lambda: seen.append("diagrams")))
    assert cli.main(["reproduce", "02", "03", "-p", "profile", "desk", "-p", "seed", "1"]) == 0
    assert cli.main(["figures"]) == 0
    assert seen == [(["02", "03"], {"profile": "desk", "seed": "1"}, None, False), "diagrams", (["06"], {}, None, False)]


@pytest.fixture
def reading(monkeypatch):
    """`mmlib.read.reader` without a model: what it was asked for."""
    asked = []

    def read(file, beam, reader, photo, sizes):
        asked.append((file, beam, reader, tuple(sizes)))
        if "bad" in file:
            raise DataError(f"{file}: the picture is blank")
        return [types.SimpleNamespace(score=-0.25, latex="x^{2}"), types.SimpleNamespace(score=-1.0, latex="x2")]

    module = types.SimpleNamespace(recognize=read, Reader=types.SimpleNamespace(load=lambda path: f"reader {path}"))
    monkeypatch.setitem(sys.modules, "mmlib.read.reader", module)
    return asked


def test_a_file_that_cannot_be_read_does_not_stop_the_others(reading, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "bad.png", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert cli.main(["recognize", "a.png", "bad.png", "gone.png", "folder", "c.png", "--reader", "mine", "--beam", "3"]) == 2
    assert reading == [(name, 3, "reader mine", (1.0,)) for name in ("a.png", "bad.png", "c.png")]
    shown = capsys.readouterr()
    assert shown.out == "a.png\t-0.250\tx^{2}\nc.png\t-0.250\tx^{2}\n"
    assert sorted(shown.err.splitlines()) == [
        "mmlib: bad.png: the picture is blank", "mmlib: folder: is a folder; name the files in it",
        "mmlib: gone.png: there is no such file"]
    assert cli.main(["recognize", "a.png", "c.png", "--best", "2"]) == 0
    assert capsys.readouterr().out.count("\n") == 4
    assert cli.main(["recognize", "a.png", "--sizes", "0.86", "1"]) == 0
    assert reading[-1][-1] == (0.86, 1.0)
    capsys.readouterr()
    for option in ("--best", "--beam", "--sizes"):
        for wrong in ("0", "-1", "x"):
            with pytest.raises(SystemExit):
                cli.main(["recognize", "a.png", f"{option}={wrong}"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "'x' is no size from 0.25 to 4" in shown.err


def test_fine_tuning_ends_by_saying_how_to_read_with_it(monkeypatch, capsys):
    module = types.SimpleNamespace(Config=Config, run=lambda *_: types.SimpleNamespace(name="finetune-smoke-1", summary={}))
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: module)
    assert cli.main(["finetune"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "read with: mmlib recognize --reader finetune-smoke-1 FILE"


def test_a_mistyped_name_is_told_before_torch_is_imported(tmp_path):
    code = "import sys, mmlib.cli; assert mmlib.cli.main(sys.argv[1:]) == 2; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "recognize", str(tmp_path / "gone.png")], capture_output=True, text=True,
                          cwd=project_root(), check=False)
    assert done.returncode == 0, done.stderr
    assert "gone.png: there is no such file" in done.stderr


def test_help_and_version_are_quick_as_they_import_no_torch():
    code = (
        "import sys, mmlib.cli\n"
        "try: mmlib.cli.main(sys.argv[1:])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    for argument, expected in (("--version", mmlib.__version__), ("--help", "recognize")):
        command = [sys.executable, "-c", code, argument]
        done = subprocess.run(command, capture_output=True, text=True, cwd=project_root(), check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
