"""The committed results agree with each other, and one number changed anywhere is found and named."""

import functools
import json
import random
import shutil

import pytest

from mmlib import cli
from mmlib.store.runs import project_root
from mmlib.study import records, verify
from mmlib.study import tables as study_tables


@pytest.fixture(scope="module")
def committed(copied_results, tmp_path_factory):
    """A copy of all that is verified."""
    root = tmp_path_factory.mktemp("project")
    for name in ("notebooks", "figures"):
        shutil.copytree(project_root() / name, root / name, ignore=shutil.ignore_patterns(".*"))
    shutil.copy(project_root() / "README.md", root)
    return root, copied_results["MMLIB_RESULTS"]


@pytest.fixture
def project(committed, monkeypatch, tmp_path):
    root, results = committed
    monkeypatch.setenv("MMLIB_RESULTS", results)
    monkeypatch.setenv("MMLIB_FIGURES", str(root / "figures"))
    monkeypatch.setattr(verify, "project_root", lambda: root)
    return root


@pytest.fixture(scope="module")
def tables():
    """The published tables, each drawn once: the records behind them stay as they are."""
    return functools.cache(study_tables.table)


@pytest.fixture
def change():
    """A function that writes a file anew; afterwards it is as it was."""
    before = {}

    def write(path, text):
        before.setdefault(path, path.read_bytes())
        path.write_text(text, encoding="utf-8", newline="")

    yield write
    for path, content in before.items():
        path.write_bytes(content)


def other(number, rng):
    """The number with one digit changed."""
    places = [i for i, c in enumerate(number) if c.isdigit()]
    place = rng.choice(places)
    return number[:place] + rng.choice([d for d in "123456789" if d != number[place]]) + number[place + 1 :]


def test_what_is_committed_agrees(project, monkeypatch, tables):
    monkeypatch.setattr(study_tables, "table", tables)
    assert verify.verify() == []


@pytest.mark.parametrize("seed", range(12))
def test_a_number_changed_in_the_records_is_named(project, change, seed):
    rng = random.Random(seed)
    lines = records.path().read_text(encoding="utf-8").splitlines(keepends=True)
    place = rng.randrange(1, len(lines))
    row = records.rows()[place - 1]
    column = rng.choice([c for c in records.NUMBERS if row[c]]) if seed % 2 else "value"
    old, new = row[column], other(row[column], rng)
    parts = lines[place].rstrip("\n").rsplit(",", len(records.COLUMNS) - records.COLUMNS.index("labels"))
    parts[records.COLUMNS.index(column) - records.COLUMNS.index("labels") + 1] = new
    if "," in row["metric"]:  # quoted: the columns before the value are further left
        lines[place] = lines[place].replace(f",{old},", f",{new},")
    else:
        lines[place] = ",".join(parts) + "\n"
    change(records.path(), "".join(lines))
    faults = list(verify.record_faults())
    assert any(f"line {place + 1} (" in fault and row["metric"] in fault for fault in faults)
    if column not in records.KEY:
        assert any(f"{column} is {new}" in fault for fault in faults)


@pytest.mark.parametrize("seed", range(4))
def test_a_number_changed_in_outcomes_is_named(project, change, seed):
    rng = random.Random(seed)
    path = rng.choice(sorted((records.path().parent / "runs").glob("*/outcomes.csv")))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    place = rng.choice([k for k, line in enumerate(lines) if k and line.split(",")[1]])
    parts = lines[place].split(",")
    parts[1] = str(int(parts[1]) + rng.randint(1, 9))
    change(path, "".join([*lines[:place], ",".join(parts), *lines[place + 1 :]]))
    faults = [*verify.run_faults(), *verify.record_faults()]
    assert any(f"{path.parent.name}/environment.json: ter is" in fault for fault in faults)
    if path.parent.name in {row["run"] for row in records.rows()}:
        assert any(f"({path.parent.name}, " in fault and "ter): value is" in fault for fault in faults)


@pytest.mark.parametrize("seed", range(5))
def test_a_number_changed_in_a_table_is_named(project, change, seed, monkeypatch, tables):
    monkeypatch.setattr(study_tables, "table", tables)
    rng = random.Random(seed)
    path = rng.choice([*sorted((project / "figures").glob("*.md")), records.path().parent / "checkpoints" / "README.md",
                       project / "README.md"])
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    marks = [k for k, line in enumerate(lines) if "table:main" in line] or [0, len(lines)]
    rows = [k for k in range(*marks) if lines[k].startswith("|")]
    place = rng.choice([k for k in rows if any(c.isdigit() for c in lines[k].split("|")[-2])])
    change(path, "".join([*lines[:place], other(lines[place], rng), *lines[place + 1 :]]))
    (fault,) = verify.table_faults()
    assert path.name in fault
    assert f"line {place + 1}:" in fault


@pytest.mark.parametrize("name", ["environment.json", "metrics.jsonl", "records.csv"])
def test_a_number_changed_in_a_run_folder_is_named(project, change, name):
    path = max((records.path().parent / "runs").glob(f"finetune-*/{name}"))
    text = path.read_text(encoding="utf-8")
    if name == "environment.json":
        changed = text.replace('"steps": ', '"steps": 1')
    elif name == "metrics.jsonl":
        *rows, last = text.splitlines()
        changed = "\n".join([*rows, json.dumps(json.loads(last) | {"valid_ter": 0.123})])
    else:
        changed = text.replace("ter,0.", "ter,1.") if "ter,0." in text else text.replace("drawing,0.", "drawing,1.")
    assert changed != text
    change(path, changed)
    assert any(path.parent.name in fault for fault in [*verify.run_faults(), *verify.record_faults()])


def test_a_run_that_is_gone_is_named(project):
    folder = records.path().parent / "runs" / records.rows()[0]["run"]
    folder.rename(folder.with_name("away"))
    try:
        assert any(folder.name in fault and "config.json" in fault for fault in verify.record_faults())
    finally:
        folder.with_name("away").rename(folder)


@pytest.mark.parametrize(("text", "named"), [
    ("We read 61.3742 % of them.", "61.3742 %"),
    ("An error of 0.98765 was seen.", "0.98765"),
    ("It took 7,654,321 pictures.", "7,654,321"),
    ("About 99.9987 per cent.", "99.9987 per cent"),
])  # fmt: skip
def test_a_claim_that_nothing_holds_is_named(project, change, text, named):
    readme = project / "README.md"
    change(readme, readme.read_text(encoding="utf-8").replace("## Two commands", f"{text}\n\n## Two commands"))
    (fault,) = verify.prose_faults()
    assert fault.startswith(f"README.md: no record or table holds {named} (")


def test_a_claim_in_a_notebook_is_checked_and_may_be_what_it_printed(project, change):
    path = project / "notebooks" / "06_paper_figures.ipynb"
    found = json.loads(path.read_text(encoding="utf-8"))
    found["cells"].append({"cell_type": "markdown", "metadata": {}, "source": ["So 0.98765, see 6.7."]})
    change(path, json.dumps(found))
    (fault,) = verify.prose_faults()
    assert "06_paper_figures.ipynb: no record or table holds 0.98765" in fault
    found["cells"].append({"cell_type": "code", "metadata": {}, "source": [], "outputs": [{"text": ["x = 0.987649\n"]}]})
    change(path, json.dumps(found))
    assert not list(verify.prose_faults())


def test_what_is_no_claim():
    text = "`0.12345` $0.12345$ [a](http://0.12345) arXiv:1234.56789, CC BY-NC-SA 9.9, Python 3.19, 2014, x1.2345\n| 0.12345 |\n"
    assert not list(verify._unheld("here", text, set()))
    assert not list(verify._unheld("here", "30.5 % and 0.31", {0.3051, 0.309}))
    assert len(list(verify._unheld("here", "30.6 % and 0.32", {0.3051, 0.309}))) == 2


def test_the_command_fails_and_names_what_it_found(monkeypatch, capsys):
    monkeypatch.setattr(verify, "verify", lambda figures: ["README.md: no record or table holds 0.5"] * (not figures))
    assert cli.main(["verify"]) == 2
    assert "no record or table holds 0.5" in capsys.readouterr().err
    assert cli.main(["verify", "--figures"]) == 0


def test_other_weights_than_those_that_were_published_are_named(project, monkeypatch):
    monkeypatch.setattr(verify, "published", lambda: {"finetune-desk-0123456789": "0123456789abcdef"})
    assert any("recogniser.safetensors: its digest is" in fault for fault in verify.run_faults())
