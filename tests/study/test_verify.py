"""The committed results agree with each other, and one number changed anywhere is found
and named.
"""

import functools
import random
import shutil

import pytest

from mmlib import cli
from mmlib.store.files import project_root
from mmlib.study import records, results, verify
from mmlib.study import tables as study_tables


@pytest.fixture(scope="module")
def committed(copied_results, tmp_path_factory):
    """A copy of all that is verified."""
    root = tmp_path_factory.mktemp("project")
    for name in ("notebooks", "figures", "docs"):
        shutil.copytree(project_root() / name, root / name, ignore=shutil.ignore_patterns(".*"))
    shutil.copy(project_root() / "README.md", root)
    return root, copied_results["MMLIB_RESULTS"]


@pytest.fixture
def project(committed, monkeypatch, tmp_path):
    root, results = committed
    monkeypatch.setenv("MMLIB_RESULTS", results)
    monkeypatch.setenv("MMLIB_FIGURES", str(root / "figures"))
    monkeypatch.setattr(study_tables, "project_root", lambda: root)
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
    return number[:place] + rng.choice([d for d in "123456789"
                                        if d != number[place]]) + number[place + 1 :]


def test_what_is_committed_agrees(project, monkeypatch, tables):
    monkeypatch.setattr(study_tables, "table", tables)
    assert verify.verify() == []


@pytest.mark.parametrize("seed", range(12))
def test_a_number_changed_in_the_records_is_named(project, change, seed):
    rng = random.Random(seed)
    lines = records.path().read_text(encoding="utf-8").splitlines(keepends=True)
    rows = records.rows()
    place = rng.choice([k for k, row in enumerate(rows, 1) if row["stage"] == "evaluate"])
    row = rows[place - 1]
    column = rng.choice([c for c in records.NUMBERS if row[c]]) if seed % 2 else "value"
    old, new = row[column], other(row[column], rng)
    parts = lines[place].rstrip("\n").rsplit(",",
                                             len(records.COLUMNS) - records.COLUMNS.index("labels"))
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
    path = rng.choice(sorted((records.path().parent / "outcomes").glob("*.csv")))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    place = rng.choice([k for k, line in enumerate(lines) if line.split(",")[1] == "token_errors"])
    parts = lines[place].split(",")
    where = rng.choice([k for k, value in enumerate(parts) if k > 1 and value])
    parts[where] = str(int(parts[where]) + rng.randint(1, 9))
    change(path, "".join([*lines[:place], ",".join(parts), *lines[place + 1 :]]))
    faults = list(verify.record_faults())
    assert any(f"({parts[0]}, " in fault and "ter): value is" in fault for fault in faults) or any(
        f"({parts[0]}, " in fault and "ter:removed): value is" in fault for fault in faults)


@pytest.mark.parametrize("seed", range(5))
def test_a_number_changed_in_a_table_is_named(project, change, seed, monkeypatch, tables):
    monkeypatch.setattr(study_tables, "table", tables)
    rng = random.Random(seed)
    places = {}  # by file, the rows of its tables that hold a number
    for path in [*sorted((project / "figures").glob("*.md")), project / "README.md",
                 project / "docs" / "claims.md",
                 records.path().parent / "checkpoints" / "README.md"]:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        marks = [k for k, line in enumerate(lines)
                 if "table:main" in line or "table:published" in line] or [0, len(lines)]
        places[path] = [k for k in range(*marks) if lines[k].startswith("|")
                        and any(c.isdigit() for c in lines[k])]
    path = rng.choice([path for path, rows in places.items() if rows])
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    place = rng.choice(places[path])
    change(path, "".join([*lines[:place], other(lines[place], rng), *lines[place + 1 :]]))
    (fault,) = verify.table_faults()
    assert path.name in fault
    assert f"line {place + 1}:" in fault


@pytest.mark.parametrize("column", ["start", "seed", "total_pictures", "commit"])
def test_a_value_changed_in_the_runs_is_named(project, change, column):
    path = records.path().parent / "runs.csv"
    table = records.read_table(path)
    row = next(row for row in table
               if row["stage"] == ("finetune" if column == "total_pictures" else "evaluate"))
    row[column] = {"start": "finetune-desk-gone"}.get(column, row[column] + "1")
    text = path.read_text(encoding="utf-8")
    change(path, text)
    records.write_table(path, results.COLUMNS, table)
    assert [*verify.run_faults(), *verify.record_faults()]


def test_a_run_that_is_gone_is_named(project, change):
    path, name = records.path().parent / "runs.csv", records.rows()[0]["run"]
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    change(path, "".join(line for line in lines if not line.startswith(name)))
    assert any(name in fault and "not in the tables" in fault for fault in verify.record_faults())


def test_the_command_fails_and_names_what_it_found(monkeypatch, capsys):
    monkeypatch.setattr(verify, "verify", lambda: ["README.md: it says 0.5"])
    assert cli.main(["verify"]) == 2
    assert "it says 0.5" in capsys.readouterr().err
    monkeypatch.setattr(verify, "verify", list)
    assert cli.main(["verify"]) == 0


def test_other_weights_than_those_that_were_published_are_named(project, monkeypatch):
    monkeypatch.setattr(verify, "shipped_digests",
                        lambda: {"finetune-desk-0123456789": "0123456789abcdef"})
    assert any("recogniser.safetensors: its digest" in fault for fault in verify.run_faults())
