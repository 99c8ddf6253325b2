"""A probe is a run: found done by a repeated call, the same by the same seed, and rows in the
records.
"""

import pytest
import torch
from helpers import find_runs

from mmlib.cli import main
from mmlib.data import corpus as corpora
from mmlib.measure import probes
from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.study import probe as stage
from mmlib.study import records
from mmlib.train import finetune, pretrain
from mmlib.train.contrast import Contrast
from mmlib.train.profiles import preset
from mmlib.train.stage import half

SMALL = {"fitted": 120, "read": 40}


@pytest.fixture(scope="module", autouse=True)
def small(small_data):
    with small_data(100, 20) as patch:
        patch.setattr(probes, "STEPS", 3)  # quick, and nowhere near the minimum
        yield


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))


def trained(module=pretrain, seed=3, **changes):
    """A finished run of a stage whose weights were never trained."""
    config = preset(module, "smoke", seed=seed, **changes)
    run = Run.open(module.__name__.rpartition(".")[2], "smoke", config, {"data": "none"})
    torch.manual_seed(seed)
    model = Contrast(config.encoder if module is pretrain else config.model.encoder)
    with run.lock():
        run.save_weights(half(model.state_dict()), {"config": run.config})
        run.finish(pictures=12)
    return run


def test_rows_are_the_same_again_and_are_recorded(monkeypatch):
    run = trained()
    found = stage.probe(run, arm="ours", **SMALL)
    rows = {row["metric"]: row for row in found.summary["rows"]}
    assert {"symbol_linear", "symbol_knn_macro", "symbol_common", "relation_linear_macro",
            "geometry_linear"} <= set(rows)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
    assert rows["symbol_linear"]["n"] >= 40

    kept = {row["metric"]: row for row in records.rows()}
    assert len(kept) == 3 * len(rows)
    line = kept["probe_symbol_linear"]
    expected = {"run": found.name, "stage": "probe", "profile": "smoke", "arm": "ours",
                "dataset": "synthetic", "split": "valid", "labels": "0", "seed": "3",
                "pictures": "24", "n": str(rows["symbol_linear"]["n"])}
    assert {key: line[key] for key in expected} == expected
    assert float(kept["probe_symbol_knn_low"]["value"]) == pytest.approx(rows["symbol_knn"]["low"])

    again = stage.measure(*stage.load(run), corpora.load_corpus("synthetic"),
                          stage.Config("synthetic", **SMALL))
    assert again == found.summary["rows"]
    monkeypatch.setattr(stage, "measure", lambda *_: pytest.fail("probed twice"))
    before = records.rows()
    assert stage.probe(run, arm="ours", **SMALL).name == found.name
    assert records.rows() == before


def test_random_weights_are_another_run_by_their_seed():
    run = trained(finetune, labels=0.5)
    first, second = (stage.probe(run, random=seed, arm="random weights", **SMALL)
                     for seed in (0, 1))
    own = stage.probe(run, arm="supervised", **SMALL)
    assert len({first.name, second.name, own.name}) == 3
    assert first.summary["rows"] != second.summary["rows"] != own.summary["rows"]
    told = {(r["arm"], r["seed"], r["labels"], r["pictures"]) for r in records.rows()}
    assert told == {("random weights", "0", "0", "0"), ("random weights", "1", "0", "0"),
                    ("supervised", "3", "0.5", "12")}
    weights = stage.load(run, 0)[0].state_dict()
    assert all(torch.equal(value, weights[name])
               for name, value in stage.load(run, 0)[0].state_dict().items())


def test_the_command_prints_and_refuses(capsys, monkeypatch):
    run = trained()
    monkeypatch.setattr(stage, "measure",
                        lambda *_: [{"metric": "symbol_linear", "value": 0.5, "low": 0.4,
                                     "high": 0.6, "n": 9}])
    assert main(["probe", str(run.folder)]) == 0
    out = capsys.readouterr().out
    assert "symbol_linear" in out
    assert "[0.4000, 0.6000]" in out
    (found,) = find_runs("probe")
    assert found.name in out
    assert not records.path().is_file()
    run.weights.unlink()
    # done, so it needs no weights
    assert main(["probe", str(run.folder), "--dataset", "synthetic"]) == 0
    (found.folder / "environment.json").unlink()
    assert main(["probe", str(run.folder)]) == 2
    assert "no weights here" in capsys.readouterr().err
    (run.folder / "environment.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        stage.probe(run)
