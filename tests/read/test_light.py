"""The reader alone: what it installs is all that it imports."""

import subprocess
import sys
import tomllib

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image, ImageDraw

from mmlib.store.files import project_root

EXTRAS = tomllib.loads((project_root() / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"]
IMPORTED = {"Hershey-Fonts": "HersheyFonts", "scikit-learn": "sklearn"}  # where names differ
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from mmlib.cli import main
sys.exit(main(sys.argv[1:]))
"""


def blocked():
    """Modules of every extra."""
    asked = [Requirement(text).name for extra in EXTRAS.values() for text in extra]
    return sorted({IMPORTED.get(name, name) for name in asked} - {"mmlib"})


def command(*arguments):
    code = BLOCKED.format(blocked=blocked())
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True,
                          timeout=300, check=False)


@pytest.fixture
def plus(tmp_path):
    image = Image.new("L", (80, 80), 255)
    ImageDraw.Draw(image).line((20, 40, 60, 40), 0, 3)
    ImageDraw.Draw(image).line((40, 20, 40, 60), 0, 3)
    image.save(tmp_path / "plus.png")
    assert np.asarray(image).min() == 0
    return tmp_path / "plus.png"


def test_the_reader_needs_no_extra(plus):
    assert {"matplotlib", "jupyterlab", "accelerate", "pandas"} <= set(blocked())
    done = command("recognize", str(plus))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\t")[2] == "+"


def test_what_needs_an_extra_says_so():
    done = command("evaluate", "--limit", "1")
    assert done.returncode == 2
    assert ".[notebooks]" in done.stderr
    assert "Traceback" not in done.stderr
