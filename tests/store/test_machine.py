"""Threads: one, unless more are faster; and a reading on a machine that others keep busy."""

import os
import subprocess
import sys

import pytest
import torch

from mmlib.store import machine
from mmlib.store.files import project_root

# Busy from the first reading on, and not while packages are imported.
READ = """
import os, subprocess, sys, time
from mmlib.read.reader import recognize
command = [sys.executable, "-c", "while True: pass"]
busy = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
try:
    time.sleep(0.5)
    recognize("docs/formula.png", beam=1)
    began = time.perf_counter()
    recognize("docs/formula.png")
    print(time.perf_counter() - began)
finally:
    for process in busy:
        process.kill()
        process.wait()
"""


@pytest.fixture
def threads(monkeypatch):
    """Torch's number of threads as it starts on a machine of four cores; put back afterwards."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "AT_START", 4)
    monkeypatch.setattr(machine, "_settled", {})
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("most", "seconds", "found"),
    [
        (8, lambda n: 1 / n, 8),  # idle cores
        (6, lambda n: 1 / n, 6),
        (8, lambda n: max(1 / n, 0.45), 2),  # too little work for more
        (8, lambda n: 1.0 if n == 1 else 30.0, 1),  # busy cores
        (2, lambda n: 1.0 if n == 1 else 0.9, 1),  # not clearly faster
        (1, None, 1),
    ],
)
def test_more_threads_have_to_prove_faster(most, seconds, found):
    assert machine.fastest(most, seconds) == found


def test_a_number_that_is_set_stays(threads, monkeypatch):
    monkeypatch.setattr(machine, "fastest", lambda most: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert machine.settle_threads() == 4
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(3)
    assert machine.settle_threads() == 3


def test_it_is_measured_once_unless_asked_anew(threads, monkeypatch):
    monkeypatch.setattr(machine, "fastest", lambda most: 1)
    assert machine.settle_threads(anew=False) == torch.get_num_threads() == 1
    monkeypatch.setattr(machine, "fastest", lambda most: 2)
    assert machine.settle_threads(anew=False) == 1
    assert machine.settle_threads() == torch.get_num_threads() == 2


@pytest.mark.slow
def test_a_busy_machine_reads_about_as_fast_as_on_one_thread():
    """Where threads wait for one another, a reading takes up to a hundred times as long."""
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}

    def seconds(**more):
        done = subprocess.run(
            [sys.executable, "-c", READ],
            cwd=project_root(),
            check=True,
            capture_output=True,
            text=True,
            env=free | more,
        )
        return float(done.stdout)

    assert seconds() < 4 * seconds(OMP_NUM_THREADS="1")
