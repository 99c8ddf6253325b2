"""Every notebook, at smoke size on embedded data: its checked outputs, and headless from a foreign
folder.

nbval executes each, trains what is missing, and compares the outputs of the cells tagged
`nbval-check-output` with the committed ones. Papermill then executes one once more, from elsewhere
and with parameters, and finds its runs done (`make reproduce` executes all of them with it). All
work on a copy of the committed results, so that they find what a fresh clone has and change nothing
of it.
"""

import subprocess
import sys

import pytest

from mmlib.store.files import RunError, project_root
from scripts.reproduce import find_notebooks, parameters_of

try:
    NOTEBOOKS = find_notebooks()
except RunError:
    NOTEBOOKS = []
SMOKE = {"profile": "smoke", "dataset": "synthetic"}

pytestmark = pytest.mark.slow


def call(*command, **options):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


NBVAL = (
    "--nbval-lax",
    "--nbval-current-env",
    "--nbval-cell-timeout",
    600,
    "-p",
    "no:cacheprovider",
    "-q",
)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_gives_its_outputs(notebook, copied_results):
    call("pytest", *NBVAL, notebook, env=copied_results, cwd=project_root())


def test_papermill_runs_it_from_elsewhere(copied_results, tmp_path):
    (notebook,) = find_notebooks(["02"])
    given = [
        part
        for name, value in SMOKE.items()
        if name in parameters_of(notebook)
        for part in ("-p", name, value)
    ]
    call(
        "papermill",
        notebook,
        tmp_path / "out.ipynb",
        *given,
        "-k",
        "python3",
        "--no-progress-bar",
        env=copied_results,
        cwd=tmp_path,
    )
    assert (tmp_path / "out.ipynb").is_file()
