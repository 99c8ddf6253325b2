"""The checkout itself: pins that agree, a clean tree, notebooks in form."""

import ast
import csv
import os
import re
import shutil
import subprocess
import tomllib
from itertools import pairwise

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mmlib.store.files import project_root
from mmlib.study.results import MEASURES, TRAITS
from scripts.reproduce import code_digest, parameters_of

ROOT = project_root()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def pinned():
    """The requirements of requirements.txt, each with its hashes."""
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    return [line.partition(" --hash=")[::2] for line in text.splitlines()]


def pins():
    """Name to version of requirements.txt."""
    found = [Requirement(text) for text, _ in pinned()]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in found}


def tracked():
    """The files that git holds."""
    git = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if git.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in git.stdout.split("\0") if name and (ROOT / name).is_file()]


# --- environment ----------------------------------------------------------------------------------


def test_requirements_are_plain_pins_with_hashes():
    for text, hashes in pinned():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*( ; .+)?", text.rstrip()), text
        assert re.fullmatch(r"sha256:[0-9a-f]{64}(\s+--hash=sha256:[0-9a-f]{64})*", hashes), text


def test_pins_are_within_the_ranges_of_the_package():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(text for extra in extras for text in extra)]
    wanted = [text for text in wanted if not text.startswith(project["name"])]  # an extra in one
    # The package is installed without build isolation, so what builds it is pinned too.
    for text in [
        *wanted,
        *PYPROJECT["build-system"]["requires"],
        *PYPROJECT["tool"]["uv"]["constraint-dependencies"],
    ]:
        requirement = Requirement(text)
        assert pins()[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_conda_gets_the_same_ranges():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip == {"pip": ["-e .[notebooks]"]}
    python, _, *torch = conda
    assert f"{python.removeprefix('python=')}.0" in SpecifierSet(
        PYPROJECT["project"]["requires-python"]
    )
    project = PYPROJECT["project"]
    ranges = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    assert {text.replace("pytorch-cpu", "torch") for text in torch} <= set(ranges)


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Mitra", "Chakraborty", "Sahu"]
    assert paper["title"] in (ROOT / "README.md").read_text().replace("\n", " ")


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_knows_its_targets():
    def make(*arguments):
        # A make that runs the tests hands its own flags down; they are not for this one.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("MAKEFLAGS", "MAKELEVEL")
        }
        done = subprocess.run(
            ["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for target in ("reproduce", "test", "figures", "docs", "lab", "lint", "clean", "help"):
        assert f"make {target} " in make("help")
        make("--dry-run", target)
    assert '[ "cpu" = cpu ] && cpu_pins' in make("-nB", "install", "TORCH=cpu")
    assert "-p profile smoke -p dataset synthetic" in make("-n", "reproduce")
    copies = [line for line in make("-nB", "lab").splitlines() if "cp notebooks/" in line]
    assert len(copies) == len(NOTEBOOKS)
    assert "-p profile desk -p dataset crohme" in make(
        "-n", "reproduce", "PROFILE=desk", "DATASET=crohme"
    )


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_what_runs_in_the_lab_is_a_copy_that_git_ignores(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "a.ipynb").write_text("committed")
    copy = tmp_path / "my_notebooks" / "a.ipynb"
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for ours, theirs in (("", "committed"), ("run", "run"), ("older", "committed")):
        if ours:
            copy.write_text(ours)
        if ours == "older":
            os.utime(copy, (0, 0))
        subprocess.run(["make", "-s", "my_notebooks/a.ipynb"], cwd=tmp_path, check=True)
        assert copy.read_text() == theirs
    assert copy.with_name("a.before.ipynb").read_text() == "older"
    listed = subprocess.run(["git", "status", "--short"], cwd=tmp_path, capture_output=True)
    assert b"my_notebooks" not in listed.stdout


def test_ci_runs_the_readmes_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    readme = (ROOT / "README.md").read_text()
    for command in ("make reproduce", "make test"):
        assert command in readme
    assert "\nmake test\n" in script.read_text()


# --- what is committed ----------------------------------------------------------------------------


def test_no_machine_paths_or_package_hosts():
    # In pieces, so that this file does not find itself.
    pattern = re.compile(
        r"(?<![\w.])/(work|farm|root|home/\w+|tmp)/"
        + r"\w|pypi[.]org|python"
        + r"hosted|/opt"
        + r"/pypi"
    )
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:4096]:
            found = pattern.search(data.decode("utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {found and found[0]!r}"


def test_nothing_of_crohme_and_nothing_large_is_committed():
    for path in tracked():
        name = str(path.relative_to(ROOT))
        size = path.stat().st_size
        assert not name.startswith("data/"), name
        assert not name.endswith((".tar.xz", ".tgz", ".zip", ".pkl", ".pt", ".pth", ".npz")), name
        assert size <= (4096 if name.endswith(".inkml") else 3 << 20) or name.startswith(
            "results/checkpoints/"
        ), name
        assert size <= 16 << 20, name
        if path.suffix == ".safetensors":
            assert name.startswith("results/checkpoints/"), name
        if name.startswith("results/outcomes/"):
            with open(path, newline="") as file:
                kinds = {row[1] for row in csv.reader(file)}
            assert kinds <= {"what", "length", *TRAITS, *MEASURES}, f"{name}: no labels"


# --- notebooks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_in_form(path):
    assert re.match(r"\d\d_[a-z_]+$", path.stem)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.get("language_info", notebook.metadata.kernelspec).get(
        "name"
    )  # papermill asks for it
    assert {"profile", "dataset", "seed"} <= set(parameters_of(path))
    assert all(parameters_of(path).values()), "each parameter has its type"
    cells = notebook.cells
    assert notebook.metadata["executed"] == code_digest(notebook), (
        f"stale outputs: python -m scripts.reproduce {path.stem[:2]} --keep"
    )
    assert cells[0].cell_type == "markdown"
    for before, cell in pairwise(cells):
        assert "markdown" in (before.cell_type, cell.cell_type), (
            f"two code cells in a row: {cell.source[:80]}"
        )
    for cell in cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.strip()]
            imports = [line for line in lines if line.startswith(("import ", "from "))]
            assert len(lines) - len(imports) <= 25, cell.source
            assert (
                not re.search(r"^(def|class) ", cell.source, re.MULTILINE)
                or len(cell.source) < 1500
            ), cell.source


# What may carry a digit in prose; any other number is a result, and results are computed. Nothing
# of the references is looked at.
ALLOWED = (
    r"```.*?```|`[^`]*`",  # code, and the values of parameters in it
    r"\$\$.*?\$\$|\$(?=[^$]*[A-Za-z])[^$]*\$",  # formulas, which have letters
    r"\]\([^)]*\)|arXiv:[\d.]+",  # where links lead
    r"^\*Expected.*?\*$",  # time and memory, at the head
    r"^#+ \d+(\.\d+)?|^\d+\. ",  # sections and lists
    r"\b(stages?|notebooks?) \d+( (and|to) \d+)?",
    r"\b(19|20)\d\d\b",  # years
    r"\b95 ?% interval",
    r"\b\d+ pixels\b|\b\d+-pixel\b",  # how large a picture is
    r"\w*[A-Za-z]\d+\w*",  # names: l2r
)


def typed_numbers(prose, sections=()):
    """Numbers in Markdown that are none of `ALLOWED`, each with what stands before it; `sections`
    may be referred to.
    """
    prose = prose.partition("\n## References")[0]
    for pattern in ALLOWED:
        prose = re.sub(pattern, "", prose, flags=re.DOTALL | re.MULTILINE | re.IGNORECASE)
    prose = re.sub(r"\b\d\.\d+\b", lambda found: "" if found[0] in sections else found[0], prose)
    return re.findall(r"[^\d\n]{0,30}\d[\d.,]*", prose)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_number_is_typed_into_prose(path):
    prose = [
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    ]
    sections = set(re.findall(r"^#+ (\d+\.\d+)", "\n".join(prose), re.MULTILINE))
    assert [number for cell in prose for number in typed_numbers(cell, sections)] == []


def test_typed_numbers_are_found():
    assert (
        len(
            typed_numbers(
                "TER fell by 12.5 %, to 0.41, on 8,834 inks ($3$ times), and 2.9 points.", {"2.7"}
            )
        )
        == 5
    )
    assert not typed_numbers(
        "## 2.4 Training\nAs in 2.7, notebook 04: `lr=3` and $x^2$, stage 1; l2r on CROHME 2014.",
        {"2.7"},
    )
    assert not typed_numbers(
        "1. One\n2. Two\n*Expected: 2 minutes,\n1 GB.*\nThe 95 % interval.\n\n"
        "## References\nPage 99."
    )


def test_no_result_is_typed_into_the_readme():
    """Shares and rates stand in tables that `make figures` fills."""
    readme = re.sub(
        r"<!-- table:(\w+) -->.*?<!-- /table:\1 -->",
        "",
        (ROOT / "README.md").read_text(),
        flags=re.DOTALL,
    )
    text = re.sub(
        r"```.*?```|`[^`]*`|\]\([^)]*\)|arXiv:[\d.]+|95 % interval|BY-NC-SA 3\.0"
        r"|Python 3\.\d+ to 3\.\d+",
        "",
        readme,
        flags=re.DOTALL,
    )
    assert not re.findall(r".{0,30}\d+(?:\.\d+|\s*%|\s*per ?cent).{0,10}", text)


def code_of(path):
    """The code of a notebook's cells without magics and the parameters, which all of them have."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [
        "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        for cell in cells
        if "parameters" not in cell.metadata.get("tags", ())
    ]


def test_no_definition_and_no_block_is_in_two_notebooks():
    """A function or class of one name, a lambda or three lines in a row that say the same, belong
    into mmlib.
    """
    found = {}
    for path in NOTEBOOKS:
        for code in code_of(path):
            nodes = list(ast.walk(ast.parse(code)))
            names = {
                node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            }
            names |= {ast.unparse(node) for node in nodes if isinstance(node, ast.Lambda)}
            lines = [
                line.strip()
                for line in code.splitlines()
                if line.strip() and not line.startswith(("import ", "from "))
            ]
            for what in names | {"\n".join(lines[k : k + 3]) for k in range(len(lines) - 2)}:
                found.setdefault(what, set()).add(path.stem)
    assert {what: stems for what, stems in found.items() if len(stems) > 1} == {}
