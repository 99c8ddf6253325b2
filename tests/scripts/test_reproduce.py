"""The notebook runner: order, parameters, failures by name."""

import base64
import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from mmlib.store.files import RunError
from scripts import reproduce as runner
from scripts.reproduce import find_notebooks, parameters_of, reproduce


def notebook(
    path,
    *sources,
    parameters="profile: str = 'smoke'\nseed: int = 0\nlimit: int | None = None  # pictures",
):
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [
        nbformat.v4.new_markdown_cell("# Question"),
        tagged,
        *map(nbformat.v4.new_code_cell, sources),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "mmlib").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(runner, "project_root", lambda: tmp_path)
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "results"))
    return tmp_path


def test_notebooks_are_found_by_number_by_name_and_by_path(project):
    first, second = (
        notebook(project / "notebooks" / name) for name in ("01_data.ipynb", "02_more.ipynb")
    )
    notebook(project / "notebooks" / "scratch.ipynb")
    assert find_notebooks() == [first, second]
    assert (
        find_notebooks(["02"])
        == find_notebooks(["02_more"])
        == find_notebooks(["02_more.ipynb"])
        == [second]
    )
    assert find_notebooks([str(second), "01"]) == [second, first]
    with pytest.raises(RunError, match=r"'07'.*01_data, 02_more"):
        find_notebooks(["07"])


def test_parameters_are_read_with_their_annotations(project):
    path = notebook(
        project / "a.ipynb",
        parameters='"""Doc."""\nprofile: str = "smoke"\nlimit: int | None = None\nx = 1',
    )
    assert parameters_of(path) == {"profile": "str", "limit": "int | None", "x": ""}
    with pytest.raises(RunError, match="more than assignments"):
        parameters_of(notebook(project / "b.ipynb", parameters="import os"))
    plain = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    nbformat.write(plain, project / "c.ipynb")
    with pytest.raises(RunError, match="0 cells tagged"):
        parameters_of(project / "c.ipynb")


def test_an_unknown_parameter_stops_before_anything_runs(project):
    notebook(project / "notebooks" / "01_data.ipynb", "open('ran', 'w').close()")
    with pytest.raises(RunError, match=r"'sede'.*limit, profile, seed"):
        reproduce(parameters={"sede": "1"})
    assert not (project / "ran").exists()


def test_notebooks_run_in_order_with_their_parameters(project, capsys):
    note = "with open('log', 'a') as log: print({!r}, profile, repr(seed), repr(limit), file=log)"
    notebook(
        project / "notebooks" / "02_more.ipynb",
        note.format("02"),
        parameters="profile: str = ''\nseed = limit = 5",
    )
    notebook(project / "notebooks" / "01_data.ipynb", note.format("01"))
    seconds = reproduce(parameters={"profile": "1e3", "limit": "30"})
    assert (project / "log").read_text().splitlines() == ["01 1e3 0 30", "02 1e3 5 30"]
    assert list(seconds) == ["01_data", "02_more"]
    executed = json.loads((project / "results" / "executed" / "02_more.ipynb").read_text())
    assert "papermill" in executed["metadata"]
    out = capsys.readouterr().out
    assert "[1/2] 01_data" in out
    assert "2 notebooks in" in out


def test_the_first_failure_stops_the_row_and_names_notebook_and_cell(project):
    notebook(project / "notebooks" / "01_data.ipynb", "x = 1", "y = {'a': 1}\ny['lost']")
    notebook(project / "notebooks" / "02_more.ipynb", "open('ran', 'w').close()")
    with pytest.raises(
        RunError, match=r"01_data\.ipynb failed in cell In \[3\] \(y = .*KeyError: 'lost'"
    ):
        reproduce()
    assert not (project / "ran").exists()
    assert (project / "results" / "executed" / "01_data.ipynb").exists()


def test_two_at_once_come_from_both_ends_and_meet(project):
    wait = """import time
from pathlib import Path
Path("{0}").touch()
while not Path("{1}").exists(): time.sleep(0.05)"""
    for name, other in (("01", "03"), ("02", "02"), ("03", "01")):
        notebook(project / "notebooks" / f"{name}_some.ipynb",
                 wait.format(project / name, project / other))
    here = Path.cwd()
    seconds = reproduce(at_once=2)  # one at a time, the first would wait for the last for ever
    assert Path.cwd() == here
    assert list(seconds) == ["01_some", "02_some", "03_some"]
    notebook(project / "notebooks" / "03_some.ipynb", "1 / 0")
    with pytest.raises(RunError, match=r"03_some\.ipynb failed .*ZeroDivisionError"):
        reproduce(at_once=2)


def test_a_kernel_that_dies_is_an_error_too(project):
    notebook(project / "notebooks" / "01_data.ipynb", "import os; os._exit(1)")
    with pytest.raises(RunError, match=r"01_data\.ipynb failed.*died"):
        reproduce()


def test_what_is_kept_has_nothing_of_this_run(project):
    file = io.BytesIO()
    Image.new("P", (2, 2)).save(file, "PNG")
    bar = {"text/plain": "0%", "application/vnd.jupyter.widget-view+json": {}}
    widget = bar | {"image/png": base64.b64encode(file.getvalue()).decode()}
    shown = f"display({bar}, raw=True)\ndisplay({widget}, raw=True)"
    source = f"from IPython.display import display\n{shown}"
    path = notebook(project / "notebooks" / "01_data.ipynb", source)
    with pytest.raises(RunError, match="give none"):
        reproduce(["01"], {"seed": 1}, keep=True)
    reproduce(["01"], keep=True)
    kept = json.loads(path.read_text())
    assert "papermill" not in kept["metadata"]
    assert [cell["metadata"] for cell in kept["cells"]] == [{}, {"tags": ["parameters"]}, {}]
    (output,) = kept["cells"][2]["outputs"]
    assert set(output["data"]) == {"text/plain", "image/png"}, "the widget's picture, and no bar"
    assert kept["cells"][2]["execution_count"] == 2
    once = path.read_text()
    reproduce(["01"], keep=True)
    assert path.read_text() == once


def test_pictures_are_lighter_once():
    x, y = np.meshgrid(np.arange(200), np.arange(100))
    many = Image.fromarray(np.stack([x, 2 * y, (x + y) % 256], -1).astype(np.uint8))
    few = Image.new("RGBA", (30, 20), (255, 0, 0, 255))
    few.putpixel((0, 0), (0, 0, 0, 0))  # on white paper
    for picture in (many, few):
        file = io.BytesIO()
        picture.save(file, "PNG")
        given = base64.b64encode(file.getvalue()).decode() + "\n"
        kept = runner.lighter(given)
        assert len(kept) <= len(given)
        assert runner.lighter(kept) == kept
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(kept))).convert("RGB")).astype(int)
        flat = Image.alpha_composite(
            Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")
        ).convert("RGB")
        assert np.abs(seen - np.asarray(flat)).mean() < 6
