"""Jobs through submitit's local executor, and the script that Slurm would get."""

import os
import signal
import subprocess

import pytest

from mmlib.cli import STOPPED
from mmlib.store.files import project_root
from scripts import cluster

pytest.importorskip("submitit")


def jobs(path, *lines):
    path.write_text("# name, command\n" + "".join("\t".join(line) + "\n" for line in lines))
    return str(path)


def test_what_is_no_job_is_named(tmp_path, capsys):
    for lines in ([("alone",)], [("twice", "a"), ("twice", "b")]):
        with pytest.raises(SystemExit):
            cluster.main([jobs(tmp_path / "jobs.tsv", *lines)])
        assert lines[-1][0] in capsys.readouterr().err


def test_the_script_for_slurm_is_shown(tmp_path, capsys):
    given = jobs(tmp_path / "jobs.tsv", ("seed1", "pretrain --profile smoke --seed 1"))
    asked = [given, "--on", "slurm", "--partition", "gpu", "--minutes", "90", "--dry-run"]
    assert cluster.main([*asked, "--logs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for line in ("--partition=gpu", "--job-name=seed1", "--time=90", "--gpus-per-node=1"):
        assert f"#SBATCH {line}\n" in said
    assert "-m mmlib pretrain --profile smoke --seed 1" in said


def test_a_command_that_a_signal_ends_is_started_again(monkeypatch):
    codes, started = [-signal.SIGKILL, STOPPED, 0], []

    def call(command):
        started.append(command[3:])
        return codes.pop(0)

    monkeypatch.setattr(subprocess, "call", call)
    assert cluster.Command()("recognize 'a b.png'") == 0
    assert started == [["recognize", "a b.png"]] * 3


@pytest.mark.slow
def test_a_job_that_fails_is_named_and_does_not_stop_the_rest(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(project_root())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project_root()), os.environ.get(
        "PYTHONPATH", "")]))
    given = jobs(tmp_path / "jobs.tsv", ("missing", "recognize nowhere.png"),
                 ("reads", "recognize docs/formula.png"), ("help", "recognize --help"))
    assert cluster.main([given, "--logs", str(tmp_path / "logs")]) == 1
    said = capsys.readouterr()
    assert "1 of 3 failed: missing" in said.err
    assert "missing failed (2)" in said.out
    logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.out"))
    assert r"\frac{x^{2}+1}{2}" in logs
