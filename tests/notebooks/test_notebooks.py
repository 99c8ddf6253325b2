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
from xml.etree import ElementTree

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


@pytest.fixture(scope="module")
def faults(request, copied_results, tmp_path_factory):
    """What failed in each notebook that is asked for, by its name: one process runs all of them."""
    report = tmp_path_factory.mktemp("nbval") / "report.xml"
    names = [item.name for item in request.session.items]
    asked = [path for path in NOTEBOOKS if any(f"[{path.stem}]" in name for name in names)]
    command = [sys.executable, "-m", "pytest", *NBVAL, f"--junitxml={report}", *asked]
    done = subprocess.run(map(str, command), capture_output=True, text=True, env=copied_results,
                          cwd=project_root())
    assert report.is_file(), (done.stdout + done.stderr)[-6000:]
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        texts = [fault.text for kind in ("failure", "error") for fault in case.iter(kind)]
        (stem,) = (path.stem for path in asked if path.stem in case.get("classname"))
        found.setdefault(stem, []).extend(texts)
    return found


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_gives_its_outputs(notebook, faults):
    assert faults[notebook.stem] == []


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
