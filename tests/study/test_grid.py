"""The grid of ablations: equal cost, one factor at a time, nothing trained twice, and a table that
claims what it may.
"""

import shutil
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from mmlib.measure.recognition import Score
from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.study import grid as ablate
from mmlib.study import records, results
from mmlib.study.evaluate import labels_used
from mmlib.study.grid import (
    ARMS,
    COMPARED,
    GRID,
    LEVERS,
    LONGER,
    PUBLISHED,
    STAGES,
    SYNTHETIC,
    Cell,
)
from mmlib.train.cost import training_cost, views_of
from mmlib.train.loop import Paused
from mmlib.train.profiles import preset
from mmlib.train.stage import find_start

TOTAL, LABELLED = sum(ablate.budget()), ablate.budget()[2]


@pytest.mark.parametrize("arm", ARMS)
def test_arms_cost_the_same(arm):
    spent = sum(config.pictures * views_of(stage, asdict(config))
                for stage, config in ablate.configs(Cell(arm), ARMS[arm]).items())
    more = 4 * LABELLED if arm in {**GRID[LONGER], **GRID[PUBLISHED]} else 0
    assert spent == more + (LABELLED if arm.split(",")[0] == "supervised" or arm in GRID[LEVERS]
                            else TOTAL)


def test_an_arm_changes_what_it_names_and_nothing_else():
    base, other = (ablate.configs(Cell("x"), ARMS[arm]) for arm in ("mask-match", "up to 0.3"))
    assert base["pretrain"] == other["pretrain"]
    assert base["finetune"] == other["finetune"]
    differing = {k for k, v in asdict(base["attend"]).items() if asdict(other["attend"])[k] != v}
    assert differing == {"ratio"}
    assert ablate.configs(Cell("x"), ARMS["4 maps"])["finetune"].model.maps == 4
    assert len(ARMS) == sum(map(len, GRID.values())), "an arm's name is its own"
    with pytest.raises(TypeError):
        ablate.changed(base["attend"], {"no_such_choice": 1})


@pytest.mark.parametrize("profile", ["desk", "paper"])
def test_other_profiles_compare_equal_budgets(profile):
    arms = ablate._arms(profile)
    ours, same, total = (ablate.configs(Cell(arm), arms[arm], profile) for arm in COMPARED)
    assert list(ours) == list(STAGES)
    assert {name: config.pictures for name, config in ours.items()} == {
        name: preset(stage, profile).pictures for name, stage in STAGES.items()}
    assert same["finetune"].pictures == ours["finetune"].pictures
    assert total["finetune"].pictures == sum(ablate.budget(profile))
    for one in (same, total):  # alike but for where they start, or how long they learn
        differ = {k for k, v in vars(ours["finetune"]).items() if v != vars(one["finetune"])[k]}
        assert differ <= {"init", "pictures"}


def test_cells_by_arm_and_factor():
    found = ablate.cells(["masking", "simclr"], seeds=(0, 1), labels=(0.1,))
    assert [c.arm for c in found if c.seed == 0] == [*GRID["masking"], "simclr"]
    assert len(found) == 2 * (len(GRID["masking"]) + 1)
    assert {c.labels for c in found} == {0.1}
    assert ablate.cells([SYNTHETIC], labels=(0.1, 1.0)) == [Cell(SYNTHETIC, 0, 0.0)]
    # of the synthetic ink
    assert ablate.configs(Cell(SYNTHETIC, 0, 0.0), ARMS[SYNTHETIC])["finetune"].labels == 1
    assert labels_used({"dataset": "synthetic", "labels": 1.0}, "crohme") == 0
    assert labels_used({"dataset": "synthetic", "labels": 0.5}, "synthetic") == 0.5
    assert labels_used({"dataset": "crohme", "labels": 0.5}, "crohme") == 0.5
    with pytest.raises(RunError, match="no 'simclrr'; factors: whole method"):
        ablate.cells(["simclrr"])


def test_grid_trains_once_reads_and_goes_on(tmp_path, monkeypatch, capsys):
    """The book-keeping alone: stages that finish at once (notebook 05 runs a grid that trains)."""
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    trained, scored = [], Score(1, 0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.0)

    def stage(name):
        def run(config, profile, max_minutes, progress):
            before = getattr(config, "init", "none")
            this = Run.open(name, profile, config, {"init": before})
            if not this.done:
                if max_minutes == 0:
                    raise Paused(this.name)
                if before != "none":
                    find_start(before).load_weights()
                with this.lock():
                    trained.append(this.name)
                    this.save_weights({}, {})
                    this.finish(pictures=config.pictures)
            return this

        return SimpleNamespace(Config=STAGES[name].Config, run=run)

    def evaluate(folder, dataset, split, beam, *, arm, profile, occlusion, removal):
        run = Run.load(folder)
        records.append([{"run": run.name, "stage": "evaluate", "profile": profile, "arm": arm,
                         "dataset": dataset, "split": split, "labels": run.config["labels"],
                         "seed": run.config["seed"], "metric": "ter", "value": scored.ter, "n": 1,
                         "pictures": training_cost(run)[0], "occlusion": occlusion}])
        results.collect()
        return scored

    monkeypatch.setattr(ablate, "STAGES", {name: stage(name) for name in STAGES})
    monkeypatch.setattr(ablate, "evaluate", evaluate)
    probed = []
    monkeypatch.setattr("mmlib.study.probe.probe", lambda run, dataset,
                        arm: probed.append((arm, run.stage)))
    cells = ablate.cells(["mask-match", "slots alone", "supervised",
                          "supervised-total, masked ink"], labels=(0.1,))
    with pytest.raises(Paused):
        ablate.ablate(cells, max_minutes=0)
    assert not records.rows()
    ablate.ablate(cells[:1])
    done = ablate.recorded_cells()
    assert (cells[0] in done, cells[1] in done, Cell(cells[0].arm) in done) == (True, False, False)
    plan = ablate.plan(cells).splitlines()
    assert plan[0] == f"done   {cells[0]}"
    assert plan[1].startswith(f"to do  {cells[1]}: finetune"), "its stages 1 and 2 are there"
    assert plan[-1].startswith("about 0 minutes"), "the kept runs say how long"
    capsys.readouterr()
    ablate.ablate(cells)
    assert "4 cells, 1 of them done" in capsys.readouterr().out
    assert [name.split("-")[0] for name in trained] == ["pretrain", "attend", *["finetune"] * 4]
    assert probed == [("mask-match", "attend"),
                      ("slots alone", "attend")], "what no label has touched"
    costs = {row["arm"]: int(row["pictures"]) for row in records.rows()}
    assert costs == {cell.arm: LABELLED if cell.arm == "supervised" else TOTAL for cell in cells}
    shares = {arm: sorted(float(row["occlusion"]) for row in records.rows() if row["arm"] == arm)
              for arm in costs}
    assert shares == {arm: [0.0, *ablate.OCCLUSION] if "masked" in arm else [0.0] for arm in costs}
    table = results.run_rows()
    assert {name: row["arm"]
            for name, row in table.items()} == {**{row["run"]: row["arm"]
                                                   for row in records.rows()},
                                                trained[0]: "mask-match", trained[1]: "mask-match"}
    # as in a fresh clone: the tables are there, the weights are not
    shutil.rmtree(tmp_path / "runs")
    trained.clear()
    ablate.ablate(ablate.cells(["mask-match", "modulation alone"], labels=(0.1,)))
    assert [name.split("-")[0] for name in trained] == ["pretrain", "attend", "finetune"]
    assert [results.run_rows()[name]
            for name in table] == list(table.values()), "what is kept stays as it is"
