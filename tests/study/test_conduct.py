"""The study: equal cost, one choice at a time, nothing trained twice."""

import shutil
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from mmlib.measure.recognition import Score
from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.study import conduct, records, results
from mmlib.study.arms import ARMS, COMPARED, MASKED, OCCLUSION, Budget, arms, questions
from mmlib.study.conduct import STAGES, Cell, cells, changed, configs
from mmlib.study.evaluate import labels_used
from mmlib.train.cost import training_cost, views_of
from mmlib.train.loop import Paused
from mmlib.train.profiles import preset
from mmlib.train.stage import find_start

QUESTIONS = questions(Budget.of())
TOTAL, LABELLED = Budget.of().total, Budget.of().labelled
SHARES = {"a quarter of": 0.25, "half of": 0.5, "twice": 2}


def test_the_study_costs_what_its_protocol_says():
    assert (TOTAL, LABELLED) == (200_000, 100_000)


@pytest.mark.parametrize("arm", ARMS)
def test_arms_cost_the_same(arm):
    spent = sum(config.pictures * views_of(stage, asdict(config))
                for stage, config in configs(Cell(arm), ARMS[arm]).items())
    share = SHARES.get(arm.partition(", ")[2].removesuffix(" the pictures"), 1)
    assert spent == (LABELLED if arm == "supervised" else share * TOTAL)


def test_an_arm_changes_what_it_names_and_nothing_else():
    base, other = (configs(Cell("x"), ARMS[arm]) for arm in ("mask-match", "fixed share"))
    assert base["pretrain"] == other["pretrain"]
    assert base["finetune"] == other["finetune"]
    differing = {k for k, v in asdict(base["attend"]).items() if asdict(other["attend"])[k] != v}
    assert differing == {"ratio"}
    reading = configs(Cell("x"), ARMS["random prototypes"])["attend"].reading
    assert (reading.sequence, reading.targets) == (1, "random")
    assert len(ARMS) == sum(map(len, QUESTIONS.values())), "an arm's name is its own"
    with pytest.raises(TypeError):
        changed(base["attend"], {"no_such_choice": 1})


def test_the_study_uses_no_segmentation_but_where_it_says_so():
    for arm, chain in ARMS.items():
        tuned = configs(Cell(arm), chain)["finetune"]
        used = tuned.point_weight + tuned.guide_weight + tuned.composed
        used += sum(asdict(tuned.augment).values()) - tuned.augment.longest_join
        assert (used > 0) == (arm in QUESTIONS["segmentation allowed"]), arm


@pytest.mark.parametrize("profile", ["desk", "paper"])
def test_other_profiles_compare_equal_budgets(profile):
    ours, same, total = (configs(Cell(arm), arms(profile)[arm], profile) for arm in COMPARED)
    assert list(ours) == list(STAGES)
    assert {name: config.pictures for name, config in ours.items()} == {
        name: preset(stage, profile).pictures for name, stage in STAGES.items()}
    assert same["finetune"].pictures == ours["finetune"].pictures
    assert total["finetune"].pictures == Budget.of(profile).total
    for one in (same, total):  # alike but for where they start, or how long they learn
        differ = {k for k, v in vars(ours["finetune"]).items() if v != vars(one["finetune"])[k]}
        assert differ <= {"init", "pictures"}


def test_cells_by_arm_and_question():
    found = cells(["form of stage 2", "simclr"], seeds=(0, 1), labels=(0.1,))
    assert [c.arm for c in found if c.seed == 0] == [*QUESTIONS["form of stage 2"], "simclr"]
    assert len(found) == 2 * (len(QUESTIONS["form of stage 2"]) + 1)
    assert {c.labels for c in found} == {0.1}
    assert labels_used({"dataset": "synthetic", "labels": 1.0}, "crohme") == 0
    assert labels_used({"dataset": "synthetic", "labels": 0.5}, "synthetic") == 0.5
    assert labels_used({"dataset": "crohme", "labels": 0.5}, "crohme") == 0.5
    with pytest.raises(RunError, match="no 'simclrr'; questions: hypotheses"):
        cells(["simclrr"])


def test_a_study_trains_once_reads_and_goes_on(tmp_path, monkeypatch, capsys):
    """The book-keeping alone: stages that finish at once (notebook 05 runs one that trains)."""
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

    def evaluate(folder, config, *, arm, profile):
        run = Run.load(folder)
        records.append([{"run": run.name, "stage": "evaluate", "profile": profile, "arm": arm,
                         "dataset": config.dataset, "split": config.split,
                         "labels": run.config["labels"],
                         "seed": run.config["seed"], "metric": "ter", "value": scored.ter, "n": 1,
                         "pictures": training_cost(run)[0], "occlusion": config.occlusion}])
        results.collect()
        return scored

    monkeypatch.setattr(conduct, "STAGES", {name: stage(name) for name in STAGES})
    monkeypatch.setattr(conduct, "evaluate", evaluate)
    chosen = cells(["mask-match", "mask-match, encoder at 0.1", "supervised",
                    "supervised-total, masked ink"], labels=(0.1,))
    with pytest.raises(Paused):
        conduct.conduct(chosen, max_minutes=0)
    assert not records.rows()
    conduct.conduct(chosen[:1])
    done = conduct.recorded_cells()
    assert [cell in done for cell in (*chosen[:2], Cell(chosen[0].arm))] == [True, False, False]
    plan = conduct.plan(chosen).splitlines()
    assert plan[0] == f"done   {chosen[0]}"
    assert plan[1].startswith(f"to do  {chosen[1]}: finetune"), "its stages 1 and 2 are there"
    capsys.readouterr()
    conduct.conduct(chosen)
    assert "4 cells, 1 of them done" in capsys.readouterr().out
    assert [name.split("-")[0] for name in trained] == ["pretrain", "attend", *["finetune"] * 4]
    costs = {row["arm"]: int(row["pictures"]) for row in records.rows()}
    assert costs == {cell.arm: LABELLED if cell.arm == "supervised" else TOTAL for cell in chosen}
    shares = {arm: sorted(float(row["occlusion"]) for row in records.rows() if row["arm"] == arm)
              for arm in costs}
    assert shares == {arm: [0.0, *OCCLUSION] if arm.endswith(MASKED) else [0.0] for arm in costs}
    table = results.run_rows()
    assert {name: row["arm"]
            for name, row in table.items()} == {**{row["run"]: row["arm"]
                                                   for row in records.rows()},
                                                trained[0]: "mask-match", trained[1]: "mask-match"}
    # as in a fresh clone: the tables are there, the weights are not
    shutil.rmtree(tmp_path / "runs")
    trained.clear()
    conduct.conduct(cells(["mask-match", "mask-match, encoder at 1"], labels=(0.1,)))
    assert [name.split("-")[0] for name in trained] == ["pretrain", "attend", "finetune"]
    assert [results.run_rows()[name]
            for name in table] == list(table.values()), "what is kept stays as it is"
