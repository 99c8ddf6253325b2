"""The table of records: exact columns, one row a key, safe beside other writers."""

import math
import multiprocessing

import pytest

from mmlib.store.files import RunError
from mmlib.study import records


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    return tmp_path


def row(**changes):
    return {
        "run": "finetune-desk-0123456789",
        "stage": "finetune",
        "profile": "desk",
        "arm": "ours",
        "dataset": "crohme",
        "split": "valid",
        "labels": 1.0,
        "seed": 0,
        "metric": "ter",
        "value": 0.5,
        "n": 400,
        "pictures": 9000,
    } | changes


def test_the_columns_are_those_of_the_design():
    records.append([row()])
    header = records.path().read_text().splitlines()[0]
    assert header == (
        "run,stage,profile,arm,dataset,split,labels,occlusion,seed,metric,value,n,pictures,minutes,hardware,commit,utc"
    )


def test_an_empty_table_loads():
    assert list(records.load().columns) == list(records.COLUMNS)
    assert len(records.load()) == 0


def test_rows_come_back_with_their_types():
    records.append([row(commit="12e4567", minutes=25.0, arm='a "quoted", arm'),
                    row(metric="exprate", value=1 / 3)])
    frame = records.load()
    assert frame.commit[0] == "12e4567"
    assert frame.arm[0] == 'a "quoted", arm'
    assert frame.minutes[0] == 25.0
    assert math.isnan(frame.minutes[1])
    assert frame.value[1] == pytest.approx(1 / 3, abs=1e-9)
    assert (frame.occlusion == 0).all()
    assert frame.hardware[1]
    assert frame.utc[1].endswith("Z")


def test_a_row_with_the_same_key_takes_the_place_of_the_older():
    records.append([row(), row(metric="exprate", value=0.1)])
    records.append([row(labels=1, value=0.25)])  # 1 and 1.0 are one key
    frame = records.load()
    assert list(frame.metric) == ["ter", "exprate"]
    assert list(frame.value) == [0.25, 0.1]
    for key, other in {"arm": "simclr", "split": "test", "labels": 0.1, "occlusion": 0.3,
                       "seed": 1}.items():
        records.append([row(**{key: other})])
    assert len(records.load()) == 7


@pytest.mark.parametrize("bad", [{"colour": "red"}, {"value": float("nan")}, {"n": float("inf")}])
def test_bad_rows_are_refused_and_nothing_is_written(bad):
    with pytest.raises(RunError, match=next(iter(bad))):
        records.append([row(metric="exprate"), row(**bad)])
    assert len(records.load()) == 0


def test_a_missing_column_is_named():
    short = row()
    del short["pictures"]
    with pytest.raises(RunError, match="pictures"):
        records.append([short])


def test_a_foreign_table_is_not_overwritten(results):
    records.path().write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="columns"):
        records.append([row()])
    assert records.path().read_text() == "a,b\n1,2\n"


def _append(seed):
    for number in range(10):
        records.append([row(seed=seed, metric=f"m{number}", commit="c", hardware="h")])


def test_writers_beside_each_other_lose_nothing():
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(seed,)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert len(records.load()) == 20
