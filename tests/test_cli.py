"""The command line builds the stages' own dataclasses, and says what went wrong in one line."""

import errno
import io
import re
import subprocess
import sys
import types
from dataclasses import replace

import pytest

import mmlib
from mmlib import cli
from mmlib.data.errors import DataError, NothingError
from mmlib.store.files import RunError, project_root
from mmlib.train.loop import Paused, Stopped
from mmlib.train.profiles import preset


@pytest.fixture
def calls(monkeypatch):
    """Stages that note what they were called with."""
    calls = []

    def launch(stage, config, profile, max_minutes=None, max_steps=None):
        calls.append((config, profile, max_minutes, max_steps))
        if max_steps:
            kind = Stopped if max_steps == 1 else Paused
            raise kind("x: paused at 7 of 10 pictures; the same command goes on from here")
        return types.SimpleNamespace(name="finetune-smoke-1", summary={"loss": 0.5})

    monkeypatch.setattr("mmlib.train.launch.launch", launch)
    return calls


def test_defaults_are_the_presets(calls, capsys):
    assert cli.main(["pretrain"]) == 0
    assert cli.main(["pretrain", "--profile", "desk"]) == 0
    smoke, desk = (preset("pretrain", profile) for profile in ("smoke", "desk"))
    assert calls == [(smoke, "smoke", None, None), (desk, "desk", None, None)]
    assert "done {'loss': 0.5}" in capsys.readouterr().out


def test_each_field_is_a_typed_option(calls, capsys):
    options = (
        "--profile desk --dataset crohme --seed 3 --labels 0.5 --full-data --mask-share 0.1 0.2 "
        "--model.no-slots --model.encoder.widths 32 64 --optim.betas 0.8 0.9 --view.scale 0.2 "
        "--max-minutes 1.5 --max-steps 7"
    )
    assert cli.main(["finetune", *options.split()]) == 0
    base = preset("finetune", "desk")
    encoder = replace(base.model.encoder, widths=(32, 64))
    config = replace(base, dataset="crohme", seed=3, labels=0.5, full_data=True,
                     mask_share=(0.1, 0.2), view=replace(base.view, scale=0.2),
                     model=replace(base.model, slots=False, encoder=encoder),
                     optim=replace(base.optim, betas=(0.8, 0.9)))
    assert calls == [(config, "desk", 1.5, 7)]
    assert "paused" in capsys.readouterr().out


def test_a_signal_that_pauses_shows_in_the_exit_code(calls):
    """A cluster's scheduler must not take it for the end."""
    assert cli.main(["pretrain", "--max-steps", "7"]) == 0
    assert cli.main(["pretrain", "--max-steps", "1"]) == cli.STOPPED


@pytest.mark.parametrize("wrong", [
    ["--seed", "x"], ["--optim.betas", "0.5"], ["--colour", "red"], ["--see", "1"],
    ["--profile", "office"],
    ["--optim.lr", "fast"], ["--optim.speed", "1"], ["--encoder.widths", "a"], ["--optim", "5"],
])
def test_a_wrong_option_is_refused(calls, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain", *wrong])
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err
    assert calls == []


def test_the_comments_behind_the_fields_are_the_help(calls, capsys):
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Square typical symbols per batch and view" in out
    assert "the last share of the budget, over which the rate falls to zero" in out


def test_an_unknown_command_is_refused_with_those_there_are(capsys):
    for wrong in (["recognise"], ["data"], ["data", "fetch"], []):
        assert cli.main(wrong) == 2
        assert "recognize" in capsys.readouterr().err


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


def test_a_disk_that_is_only_read_is_told_in_one_line(monkeypatch, capsys):
    def fail(**_):
        raise OSError(errno.EROFS, "Read-only file system", "data")

    monkeypatch.setitem(sys.modules, "mmlib.data.prepare", types.SimpleNamespace(prepare=fail))
    assert cli.main(["data", "prepare"]) == 2
    err = capsys.readouterr().err
    assert "set MMLIB_RESULTS (runs) or MMLIB_CACHE (packs)" in err
    assert err.count("\n") == 1


def test_a_console_that_lacks_a_sign_goes_on(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stderr", console)
    assert cli.main(["recognize", "三.png", "ż.png", "ok.png"]) == 2
    console.flush()
    said = console.buffer.getvalue().decode("cp1252").splitlines()
    assert [line.split(":")[1].strip() for line in said] == ["\\u4e09.png", "\\u017c.png", "ok.png"]


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(**_):
        raise ValueError("a bug")

    monkeypatch.setitem(sys.modules, "mmlib.data.prepare", types.SimpleNamespace(prepare=fail))
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["data", "prepare"])


@pytest.fixture
def reading(monkeypatch):
    """`mmlib.read.reader` without a model: what it was asked for."""
    asked = []

    def read(file, beam, reader, photo, sizes, rows, show):
        asked.append((file, beam, reader, tuple(sizes)))
        if "bad" in file:
            raise DataError(f"{file}: the picture is broken")
        if "blank" in file:
            raise NothingError(f"{file}: the picture is blank")
        if photo:
            return []
        doubt = {"confidence": 0.25, "doubtful": True, "doubts": ["2"]} if rows else {}
        plain = {"tokens": (), "confidence": None}
        found = [types.SimpleNamespace(score=-0.25, latex="x^{2}", **plain | doubt),
                 types.SimpleNamespace(score=-1.0, latex="x2", **plain)]
        one = types.SimpleNamespace(box=(1, 2, 30, 40), readings=found, touching=False)
        return [one, one] if rows else found

    module = types.SimpleNamespace(recognize=read,
                                   Reader=types.SimpleNamespace(load=lambda path: f"reader {path}"))
    monkeypatch.setitem(sys.modules, "mmlib.read.reader", module)
    return asked


def test_nothing_to_read_is_status_1_and_rows_have_boxes(reading, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "blank.png", "bad.png"):
        (tmp_path / name).touch()
    assert cli.main(["recognize", "blank.png", "a.png"]) == 1
    assert cli.main(["recognize", "blank.png", "bad.png"]) == 2
    assert cli.main(["recognize", "a.png", "--photo"]) == 1  # it found nothing
    assert cli.main(["recognize", "a.png", "--photo", "--no-photo"]) == 2
    capsys.readouterr()
    assert cli.main(["recognize", "a.png", "--rows", "--no-photo"]) == 0
    assert capsys.readouterr().out == 2 * "a.png\t1,2,30,40\t-0.250\tx^{2}\t0.25 doubtful: 2\n"


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    reading, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "bad.png", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert cli.main(["recognize", "a.png", "bad.png", "gone.png", "folder", "c.png", "--reader",
                     "mine", "--beam", "3"]) == 2
    assert reading == [(name, 3, "reader mine", (1.0,)) for name in ("a.png", "bad.png", "c.png")]
    shown = capsys.readouterr()
    assert shown.out == "a.png\t-0.250\tx^{2}\nc.png\t-0.250\tx^{2}\n"
    assert sorted(shown.err.splitlines()) == [
        "mmlib: bad.png: the picture is broken", "mmlib: folder: is a folder; name the files in it",
        "mmlib: gone.png: there is no such file"]
    assert cli.main(["recognize", "a.png", "c.png", "--best", "2"]) == 0
    assert capsys.readouterr().out.count("\n") == 4
    assert cli.main(["recognize", "a.png", "--format", "sympy"]) == 0
    assert capsys.readouterr().out == "a.png\t-0.250\tx**2\n"
    assert cli.main(["recognize", "a.png", "c.png", "--plain"]) == 0
    assert capsys.readouterr().out == "x^{2}\nx^{2}\n"
    assert cli.main(["recognize", "a.png", "--plain", "--format", "mathml"]) == 0
    assert re.fullmatch("<math.*</math>\n", capsys.readouterr().out)
    assert cli.main(["recognize", "a.png", "--sizes", "0.86", "1"]) == 0
    assert reading[-1][-1] == (0.86, 1.0)
    capsys.readouterr()
    for option in ("--best", "--beam", "--sizes"):
        for wrong in ("0", "-1"):
            assert cli.main(["recognize", "a.png", f"{option}={wrong}"]) == 2
        with pytest.raises(SystemExit):
            cli.main(["recognize", "a.png", f"{option}=x"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "mmlib: --sizes has -1, and must lie from 0.25 to 4" in shown.err
    assert cli.main(["recognize"]) == 2


def test_a_corrected_reading_is_converted(capsys):
    assert cli.main(["convert", r"\vec{v}=x^2"]) == 0
    assert re.fullmatch("<math.*<mover>.*</math>\n", capsys.readouterr().out)
    assert cli.main(["convert", "--format", "sympy", "--", "-x^2"]) == 0
    assert capsys.readouterr().out == "-x**2\n"
    assert cli.main(["convert", "--format", "sympy", r"x\in A"]) == 2
    assert "SymPy does not parse" in capsys.readouterr().err


def test_fine_tuning_ends_by_saying_how_to_read_with_it(calls, capsys):
    assert cli.main(["finetune"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1]
        == "read with: mmlib recognize --reader finetune-smoke-1 FILE"
    )


def test_a_mistyped_name_is_told_before_torch_is_imported(tmp_path):
    code = ("import sys, mmlib.cli; assert mmlib.cli.main(sys.argv[1:]) == 2; "
            "assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code, "recognize", str(tmp_path / "gone.png")],
                          capture_output=True, text=True, cwd=project_root(), check=False)
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
        done = subprocess.run(command, capture_output=True, text=True, cwd=project_root(),
                              check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
