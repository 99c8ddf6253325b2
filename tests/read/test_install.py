"""The wheel: built from the source distribution, installed bare, it reads a picture."""

import os
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmlib.store.files import project_root

PROJECT = tomllib.loads((project_root() / "pyproject.toml").read_text("utf-8"))["project"]
BUILD = "import sys, setuptools.build_meta as build; getattr(build, sys.argv[1])('{out}')"


def run(*command, cwd=None):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True,
                          timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def needed(requirements, found):
    """Names of the distributions that these bring."""
    for text in requirements or ():
        requirement = Requirement(text)
        wanted = not requirement.marker or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in found:
            found.add(requirement.name)
            needed(distribution(requirement.name).requires, found)
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Python of an environment with the wheel and, linked from here, what it depends on."""
    folder = tmp_path_factory.mktemp("install")
    out = folder / "out"
    out.mkdir()
    sources = folder / "sources"
    code = BUILD.format(out=out)
    # Of what git holds alone: a build must not need what lies about in a checkout.
    run("git", "-C", project_root(), "checkout-index", "--all", f"--prefix={sources}/")
    run(sys.executable, "-c", code, "build_sdist", cwd=sources)
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (inside,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-c", code, "build_wheel", cwd=inside)
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
        next(out.glob("*.whl")))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for name in needed(PROJECT["dependencies"], set()):
        for part in {file.parts[0] for file in distribution(name).files or ()} - {"..", ""}:
            there = Path(distribution(name).locate_file(part))
            if there.exists() and not (site / part).exists():
                (site / part).symlink_to(there)
    return python


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_the_wheel_reads_a_picture_where_nothing_else_is_installed(bare, tmp_path):
    said = run(bare.parent / "mmlib", "recognize", project_root() / "docs" / "formula.png",
               cwd=tmp_path)
    assert said.split("\t")[2] == r"\frac{x^{2}+1}{2}=\sqrt{y}"
    code = ("import mmlib.read.reader, sys; from pathlib import Path; "
            "assert 'venv' in Path(mmlib.__file__).parts, mmlib.__file__; "
            "print(sorted({'matplotlib', 'IPython', 'pandas', 'accelerate'} & set(sys.modules)))")
    assert run(bare, "-c", code, cwd=tmp_path).strip() == "[]"
    with pytest.raises(AssertionError, match="No module named"):
        run(bare, "-c", "import pandas", cwd=tmp_path)
