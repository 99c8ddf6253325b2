"""The stages from the command line: options become the stage's own dataclass, a limit pauses, the
same command goes on.
"""

import json

import pytest
from helpers import find_runs

from mmlib.cli import main
from mmlib.study.results import traits
from mmlib.train import attend, pretrain
from mmlib.train.profiles import preset

SMALL = ["--profile", "smoke", "--pictures", "12", "--batch-most", "4", "--batch-area", "150",
         "--eval-pictures", "1000", "--eval-most", "2"]
FINETUNE = ["finetune", *SMALL, "--init", "none"]


@pytest.fixture(scope="module", autouse=True)
def small(small_data):
    with small_data(100, 20):
        yield


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    return tmp_path


def test_finetune_pauses_goes_on_and_is_found_done(capsys):
    assert main([*FINETUNE, "--max-steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "paused at" in out
    assert "of 12 pictures; the same command goes on from here" in out
    (run,) = find_runs("finetune", done=False)
    assert not run.done
    assert main(FINETUNE) == 0
    assert f"{run.name}: done" in capsys.readouterr().out
    assert run.done
    assert run.summary["pictures"] >= 12
    weights = run.weights.read_bytes()
    assert main(FINETUNE) == 0  # loaded, not trained again
    assert f"{run.name}: done" in capsys.readouterr().out
    assert run.weights.read_bytes() == weights


def test_a_recorded_evaluation_keeps_what_figures_need_of_its_split(results, capsys):
    assert main(FINETUNE) == 0
    (run,) = find_runs("finetune")
    assert main(["evaluate", str(run.folder), "--split", "valid", "--beam", "1", "--arm", "x",
                 "--profile", "smoke"]) == 0
    kept = traits("valid", "synthetic").values()
    assert len(kept) > 1
    assert {row["seen"] for row in kept} == {0}  # validation's formulas are not trained on


def test_the_options_are_the_runs_configuration():
    changes = ["--seed", "3", "--no-full-data", "--labels", "0.5", "--guide-weight", "0",
               "--augment.relabel", "0", "--view.pen", "1", "1.5", "--model.decoder.layers", "3"]
    assert main([*FINETUNE, *changes, "--max-steps", "1"]) == 0
    (run,) = find_runs("finetune", done=False)
    assert run.config["seed"] == 3
    assert run.config["labels"] == 0.5
    assert run.config["guide_weight"] == 0
    assert run.config["augment"]["relabel"] == 0.0
    # what is not named stays
    assert run.config["augment"]["symbol"] == preset("finetune", "smoke").augment.symbol
    assert run.config["view"]["pen"] == [1.0, 1.5]
    assert run.config["model"]["decoder"]["layers"] == 3
    assert run.config["model"]["decoder"]["d"] == preset("finetune", "smoke").model.decoder.d


@pytest.mark.parametrize("stage", [pretrain, attend])
def test_the_other_stages_run(stage, capsys):
    name = stage.__name__.split(".")[-1]
    options = ["--init", "none"] if stage is attend else []
    assert main([name, *SMALL, *options, "--max-steps", "1"]) == 0
    assert "paused at" in capsys.readouterr().out
    (run,) = find_runs(name, done=False)
    config = json.loads((run.folder / "config.json").read_text())
    assert config["stage"] == name
    assert config["config"]["pictures"] == 12


def test_an_unknown_beginning_is_one_line(capsys):
    assert main(["finetune", *SMALL, "--init", "attend-smoke-missing"]) == 2
    assert "attend-smoke-missing" in capsys.readouterr().err
