"""Runs become rows of tables: once, with all that they started from, and nothing is lost on the
way.
"""

import numpy as np
import pytest

from mmlib.measure.recognition import Outcomes
from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.study import records, results


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "here"))
    return tmp_path / "here"


def finished(stage, start="none", rows=(), **config):
    run = Run.open(stage, "desk", {"seed": 3, "dataset": "crohme", **config}, {"init": start})
    with run.lock():
        for row in rows:
            run.log(**row)
        run.finish(pictures=10)
    return run


def read(run, errors, ids="abc", **config):
    """An evaluation of a run, with its record."""
    found = Run.open("evaluate", "desk", {"dataset": "crohme", "split": "valid", **config},
                     {"weights": run.name})
    errors = np.array(errors, float)
    length = np.where(np.isnan(errors), 0, 9)
    one = Outcomes(np.array(list(ids)), errors, errors * 0, length, errors == 0,
                   np.full(len(errors), -0.5))
    with found.lock():
        one.write_csv(found.folder / "outcomes.csv")
        found.finish(trained=run.name, arm="ours")
    records.append([{"run": found.name, "stage": "evaluate", "profile": "desk", "arm": "ours",
                     "dataset": "crohme", "split": "valid", "labels": 0.1, "seed": 3,
                     "metric": "ter", "value": 0.5, "n": 3, "pictures": 9}])
    return found, one


def test_a_reading_brings_all_that_it_started_from():
    rows = [{"step": 1, "pictures": 5, "minutes": 0.5, "loss": 1.23456789, "lr": 0.1},
            {"step": 2, "pictures": 9, "minutes": 0.75, "valid_ter": 0.123456789}]
    first = finished("pretrain", rows=rows)
    last = finished("finetune", first.name, labels=0.1)
    finished("finetune", "none", labels=0.5)  # that no record names
    found, one = read(last, [0, 2, np.nan])
    assert results.collect() == [found.name, last.name, first.name]
    assert results.collect() == []
    rows = results.run_rows()
    assert [rows[run.name]["start"] for run in (found, last, first)] == [
        last.name,
        first.name,
        "none",
    ]
    assert {row["arm"] for row in rows.values()} == {"ours"}
    assert [rows[run.name]["labels"] for run in (found, last, first)] == ["0.1", "0.1", "0"]
    assert float(rows[last.name]["total_pictures"]) == 30  # two views of ten, and ten
    assert rows[last.name]["config"] == last.config
    curve = results.curves("pretrain", "desk", ["valid_ter", "loss"]).set_index("pictures")
    assert curve.valid_ter[18] == 0.123456789
    assert curve.loss[10] == 1.2346
    kept = results.outcomes("valid")[found.name]
    for name in Outcomes.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(kept, name), getattr(one, name))


def test_a_split_has_one_column_for_each_expression():
    run = finished("finetune")
    one, _ = read(run, [0, 2], "ab")
    other, _ = read(run, [1, 3], "bc", beam=1)
    results.collect()
    assert results.outcomes("valid")[one.name].id.tolist() == ["a", "b"]
    assert results.outcomes("valid")[other.name].token_errors.tolist() == [1, 3]
    results.add_traits("valid", "crohme", {"a": {"depth": 2, "seen": 1}})
    assert results.traits("valid")["a"] == {"depth": 2, "seen": 1}
    assert np.isnan(results.traits("valid")["b"]["depth"])
    with pytest.raises(RunError, match="depth of a is not what it was"):
        results.add_traits("valid", "crohme", {"a": {"depth": 3, "seen": 1}})


def test_results_of_another_machine_join(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "there"))
    run = finished("finetune")
    found, one = read(run, [0, 2, 1])
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "here"))
    assert results.collect(tmp_path / "there") == [found.name, run.name]
    assert [row["run"] for row in records.rows()] == [found.name]
    assert results.outcomes("valid")[found.name].summary() == one.summary()
    (row,) = records.rows()
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "there"))
    records.append([row | {"metric": "measured later"}])
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "here"))
    assert results.collect(tmp_path / "there") == []
    assert [row["metric"] for row in records.rows()][1:] == ["measured later"]


def test_a_damaged_table_is_named(root):
    root.mkdir()
    (root / "runs.csv").write_text("run,stage\na\n")
    with pytest.raises(RunError, match=r"runs\.csv, row 2"):
        results.run_rows()
    (root / "runs.csv").write_text("run,stage\na,b\n")
    with pytest.raises(RunError, match="columns"):
        results.run_rows()
