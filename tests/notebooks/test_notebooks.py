"""Every notebook, at smoke size on embedded data: headless from a foreign folder, and its checked outputs.

Papermill executes it first and trains what is missing. nbval then executes it once more, finds those runs
done, and compares the outputs of the cells tagged `nbval-check-output` with the committed ones. Both work on
a copy of the committed results, so that they find what a fresh clone has and change nothing of it.
"""

import subprocess
import sys

import pytest

from mmlib.reproduce import find_notebooks, parameters_of
from mmlib.runs import RunError, project_root

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


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook, copied_results, tmp_path):
    given = [
        part
        for name, value in SMOKE.items()
        if name in parameters_of(notebook)
        for part in ("-p", name, value)
    ]
    quiet = ["-k", "python3", "--no-progress-bar"]
    call("papermill", notebook, tmp_path / "out.ipynb", *given, *quiet, env=copied_results, cwd=tmp_path)
    nbval = [
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout",
        600,
        "-p",
        "no:cacheprovider",
        "-q",
    ]
    call("pytest", *nbval, notebook, env=copied_results, cwd=project_root())
