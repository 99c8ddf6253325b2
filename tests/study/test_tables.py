"""Tables from made-up results whose answers are known."""

import matplotlib

matplotlib.use("Agg")
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.draw.views import STRIDE, InkBatch, ViewConfig, make_view
from mmlib.formula.ink import typical_size
from mmlib.formula.latex import canonical
from mmlib.formula.vocabulary import Vocabulary
from mmlib.measure.recognition import Outcomes
from mmlib.models.recogniser import Recogniser
from mmlib.read.reader import Reader
from mmlib.show import figures, readings
from mmlib.show import style as plots
from mmlib.store.files import RunError, project_root
from mmlib.store.run import Run
from mmlib.study import claims, comparisons, grid_results, records, subsets, tables
from mmlib.study import results as study_results
from mmlib.study.grid import SYNTHETIC
from mmlib.train import attend, finetune, pretrain
from mmlib.train.profiles import TINY, preset


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MMLIB_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "results"


def train(stage, start="none", rows=(), done=True, **changes):
    """A run of a stage that trained nothing."""
    config = preset(stage, "desk", dataset="crohme", **changes)
    run = Run.open(stage.__name__.split(".")[-1], "desk", config, {"data": "d", "init": start})
    with run.lock():
        for row in rows:
            run.log(**row)
        if done:
            run.finish(pictures=config.pictures)
    return run


def tabled(run, arm):
    """The run, added to the tables under an arm's name."""
    study_results.add([run], {run.name: {"arm": arm}})
    return run


def evaluated(arm, errors, length, seed=0, split="valid", trained="none", ids=None,
              utc="2025-01-01T00:00:00Z", outcomes=True, profile="desk", occlusion=0.0,
              metric="ter", labels=1, without=(), weights=None):
    """An evaluation with its records: token errors and lengths of each expression."""
    errors, length = np.array(errors, float), np.array(length)
    inputs = {"weights": weights or f"{arm}{seed}{utc}{occlusion}{metric}{labels}{split}"}
    run = Run.open("evaluate", profile,
                   {"dataset": "crohme", "split": split, "without": list(without)}, inputs)
    ids = np.array([f"e{i}" for i in range(len(errors))] if ids is None else ids)
    result = Outcomes(ids, errors, errors * 0, length, errors == 0, errors * 0)
    score = result.summary()
    with run.lock():
        result.write_csv(run.folder / "outcomes.csv")
        run.finish(ter=score.ter, arm=arm, trained=trained)
    shared = {"run": run.name, "stage": "evaluate", "profile": profile, "arm": arm,
              "dataset": "crohme", "split": split, "labels": labels, "occlusion": occlusion,
              "seed": seed, "n": score.n, "pictures": 1000, "minutes": 2, "utc": utc}
    values = {metric: score.ter} | ({"exprate": score.exprate} if metric == "ter" else {})
    records.append({**shared, "metric": name, "value": value} for name, value in values.items())
    if outcomes:
        study_results.collect()
    return run


def test_without_results_tables_say_so():
    assert (tables.arms_table("valid").seeds == comparisons.NO_RECORD).all()
    main = tables.main_table()
    assert len(main) == len(tables.MAIN)
    assert (main.iloc[:, 1:4] == comparisons.NO_RECORD).all(axis=None)
    assert comparisons.NO_RECORD in comparisons.verdict("mask-match", "supervised", "valid")
    assert all(frame.empty
               for frame in (comparisons.intervals("valid"),
                             comparisons.differences([("a", "b")], "valid"),
                             subsets.by_subset("valid", "length"), subsets.seen_unseen("valid"),
                             study_results.curves("finetune", "desk", ["valid_ter"])))


def test_grid_claims_only_what_several_seeds_carry():
    assert grid_results.grid_table().arm.tolist() == [comparisons.NO_RECORD]
    for seed in range(3):
        evaluated("mask-match", [0, 1] * 20, [10, 10] * 20, seed=seed, profile="ablate")
        evaluated("contrastive", [5, 6] * 20, [10, 10] * 20, seed=seed, profile="ablate")
    evaluated("simclr", [9, 9] * 20, [10, 10] * 20, profile="ablate")
    evaluated("dense", [9, 9] * 20, [10, 10] * 20)  # of another profile: no row
    table = grid_results.grid_table().set_index("arm")
    assert list(table.index) == ["mask-match", "contrastive", "simclr"]
    assert table.seeds.tolist() == ["0, 1, 2", "0, 1, 2", "0"]
    assert table.factor["simclr"] == "objective of stage 1"
    assert table.TER["contrastive"] == "0.550 ± 0.000"
    assert table.TER["simclr"] == "0.900"
    assert table["TER minus its"]["mask-match"] == ""
    assert table["TER minus its"]["simclr"].startswith("+0.850 [")
    assert table["p (Holm)"]["simclr"] == "", "one seed: no claim"
    assert float(table["p (Holm)"]["contrastive"]) < 0.01
    assert (
        tables.arms_table("valid").set_index("arm").seeds["mask-match"] == comparisons.NO_RECORD
    ), "not beside other budgets"
    fig = figures.grid_figure()
    (ax,) = fig.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "contrastive  (3 seeds)",
        "simclr  (1 seed)",
    ]
    assert [text.get_text() for text in ax.texts] == ["whole method: minus mask-match",
                                                      "objective of stage 1: minus mask-match"]
    assert [line.get_markerfacecolor() == "white" for line in fig.axes[0].lines
            if line.get_marker() == "o"] == [False, True]
    plt.close(fig)


def test_claims_say_no_more_than_their_seeds_carry():
    full = claims.claims_table(full=True).set_index("compared with")
    assert set(full["capped TER minus ours"]) == {comparisons.NO_RECORD}
    for seed, errors in enumerate((1, 2, 3, 2, 1)):
        shared = {"seed": seed, "profile": "ablate", "labels": 0.1}
        evaluated("mask-match", [errors, errors + 1] * 20, [10] * 40, **shared)
        evaluated("supervised-total", [errors + 4, errors + 5] * 20, [10] * 40, **shared)
        evaluated("simclr", [errors, errors + 1] * 20, [10] * 40, **shared)
        evaluated("contrastive", [errors + 4, errors + 5] * 20, [10] * 40, **shared)
    for seed in range(4):
        evaluated("byol", [40, 40] * 20, [10] * 40, seed=seed, profile="ablate", labels=0.1)
    table = claims.claims_table(full=True).set_index("compared with")
    assert table["capped TER minus ours"]["supervised-total"] == "+0.400 [+0.400, +0.400], p 0.002"
    assert table["capped TER minus ours"]["byol"].startswith("+0.750 ["), "40 errors count as 10"
    assert table["seeds in favour"][["supervised-total", "simclr", "byol"]].tolist() == [
        "5 of 5",
        "0 of 5",
        "4 of 4",
    ]
    assert table["verdict"][["supervised-total", "simclr", "byol",
                             "mae"]].tolist() == ["ours has fewer errors", "no difference found",
                                                  "not tested: 4 seeds", comparisons.NO_RECORD]
    assert table["verdict"]["contrastive"] == claims.UNTRAINED, "whatever its numbers are"
    short = claims.claims_table()
    assert len(short) <= 8
    assert short["claim"].all()
    assert tables.table("claims").equals(short)


def test_arms_are_compared_over_the_seeds_that_both_have():
    for seed in range(3):
        evaluated("mask-match", [seed] * 40, [10] * 40, seed=seed, profile="ablate")
    evaluated("simclr", [5] * 40, [10] * 40, seed=2, profile="ablate")
    evaluated("dense", [5] * 40, [10] * 40, seed=7, profile="ablate")
    found = grid_results.grid_differences().set_index("a")
    assert found.value["simclr"] == pytest.approx(0.5 - 0.2)
    assert found.seeds["simclr"] == (1, 1)
    assert "dense" not in found.index, "no seed in common"


def test_what_no_real_label_taught_stands_beside_every_share_of_the_labels():
    for labels in (0.1, 1.0):
        evaluated("mask-match", [1] * 40, [10] * 40, profile="ablate", labels=labels)
    evaluated(SYNTHETIC, [5] * 40, [10] * 40, profile="ablate", labels=0.0)
    records.append([{"run": "probe", "stage": "probe", "profile": "ablate", "arm": "mask-match",
                     "dataset": "crohme", "split": "valid", "labels": 0, "seed": 0,
                     "metric": "probe_symbol_linear", "value": 0.4, "n": 9, "pictures": 7,
                     "minutes": 1}])
    for labels in (0.1, 1.0):
        assert (
            grid_results.grid_table(labels)
            .set_index("arm")["TER minus its"][SYNTHETIC]
            .startswith("+0.400 [")
        )
        assert grid_results.grid_differences(labels).a.tolist() == [SYNTHETIC]
        assert grid_results.grid_table(labels).set_index("arm").pictures["mask-match"] == "1,000"


def test_an_expression_written_on_and_on_counts_once_where_errors_are_capped():
    evaluated("mask-match", [1] * 39 + [0], [10] * 40, profile="ablate")
    evaluated("contrastive", [1] * 39 + [400], [10] * 40, profile="ablate")
    table = grid_results.grid_table().set_index("arm")
    assert table.TER["contrastive"] == "1.097"
    assert table.capped["contrastive"] == "0.122"
    assert table["TER minus its"]["contrastive"].startswith("+1.000 [")
    assert table["capped minus its"]["contrastive"].startswith("+0.025 [")


def test_arms_are_means_over_seeds_of_the_newest_records():
    evaluated("mask-match", [9, 9], [10, 10], utc="2025-01-01T00:00:00Z")
    evaluated("mask-match", [0, 2], [10, 10], utc="2025-02-01T00:00:00Z")
    evaluated("mask-match", [0, 0], [10, 10], seed=1)
    evaluated("extra", [1, 1], [10, 10])
    table = tables.arms_table("valid").set_index("arm")
    assert list(table.index) == [*comparisons.COMPARED, "extra"]
    assert tuple(table.loc["mask-match", ["seeds", "n", "TER", "ExpRate"]]) == (
        "2",
        "2",
        "0.050",
        "75.0%",
    )
    assert table.loc["supervised", "seeds"] == comparisons.NO_RECORD
    assert "extra" not in set(tables.arms_table("valid", others=False).arm)
    assert (tables.arms_table("test_2014").seeds == comparisons.NO_RECORD).all()


def test_main_table_tells_measured_from_published(results):
    results.mkdir()
    (results / "published.csv").write_text(
        "method,2014,2016,2019,scored by,in main table\nA,58.38 ± 0.62,50.00,,LgEval,yes\n"
        "B,82.00,,,,no\n"
    )
    evaluated("mask-match", [0, 1, 0, 3], [5, 5, 5, 5], split="test_2014")
    evaluated("mask-match", [0, 1, 0, 3], [5, 5, 5, 5], split="test_2016_pictures")
    evaluated("recogniser", [0, 1, 0, 3], [5, 5, 5, 5], split="test_2014", outcomes=False)
    table = tables.main_table().set_index("method").fillna("")
    assert table.loc["mask-match (ours)", "ExpRate 2014 (%)"].startswith("50.0 [")
    assert table.loc["mask-match (ours)",
                     "ExpRate 2016 (%)"] == comparisons.NO_RECORD, "pictures are not the ink"
    assert table.loc["recogniser (ours)", "ExpRate 2014 (%)"] == "50.0"
    assert list(table.loc["A"]) == ["58.38 ± 0.62", "50.00", "", "LgEval"]
    assert "B" not in table.index


def test_differences_are_paired_and_claim_nothing_from_one_seed():
    length = np.full(200, 10)
    evaluated("a", np.tile([1, 3], 100), length)
    evaluated("b", np.tile([2, 4], 100), length)
    row = comparisons.differences([("a", "b"), ("a", "missing")], "valid").iloc[0]
    assert row.value == pytest.approx(-0.1)
    assert row.low == pytest.approx(-0.1)  # paired: every expression differs by the same
    assert "no claim follows" in comparisons.verdict("a", "b", "valid")
    evaluated("whole", np.tile([1, 3], 100), length, weights="one training")
    evaluated("without its slots", np.tile([2, 4], 100), length, weights="one training",
              without=["slots"])
    # no other seed is asked about
    assert comparisons.verdict("whole", "without its slots", "valid").endswith("whole is better.")
    for arm, add in (("a", 0), ("b", 1)):
        evaluated(arm, np.tile([1, 3], 100) + add, length, seed=1)
    assert comparisons.verdict("a", "b", "valid").endswith("a is better.")
    assert comparisons.verdict("b", "a", "valid").endswith("b is worse.")
    # every expression is worse, but by how much the seeds do not agree
    for seed, add in ((0, 1), (1, 8)):
        evaluated("c", np.tile([1, 3], 100) + add, length, seed=seed)
    assert "so few seeds do not settle it" in comparisons.verdict("c", "a", "valid")
    assert comparisons.verdict("a", "a", "valid").endswith("no difference was found.")
    evaluated("other", [1, 2], [10, 10], ids=["x", "y"])
    with pytest.raises(RunError, match="not evaluated on the same expressions"):
        comparisons.differences([("a", "other")], "valid")


def test_subsets_hold_each_readable_expression_once():
    length = np.arange(1, 41)
    evaluated("a", [*(length * 2), np.nan], [*length, 0])
    found = subsets.by_subset("valid", "length")
    assert found.n.sum() == 40
    np.testing.assert_allclose(found.value, 2)
    assert found.subset.iloc[0].startswith("1 to")
    assert found.subset.iloc[-1].endswith("to 40")
    study_results.add_traits("valid", "crohme",
                             {f"e{i}": {"depth": i % 5, "seen": int(i < 10)} for i in range(40)})
    depth = subsets.by_subset("valid", "depth").set_index("subset").n
    assert depth.to_dict() == {"0": 8, "1": 8, "2": 8, "3 and more": 16}
    seen = subsets.seen_unseen("valid")
    assert seen[seen.metric == "ExpRate"].set_index("subset").n.to_dict() == {
        "unseen": 30,
        "seen": 10,
    }


def test_curves_count_what_came_before():
    at = {"step": 1, "pictures": 50, "minutes": 1.0}
    rows = [{**at, "loss": 2.0}, {**at, "valid_ter": 0.9}]
    first = tabled(train(pretrain, rows=rows, pictures=100), "mask-match")
    second = tabled(train(attend, first.name, pictures=200), "mask-match")
    third = train(finetune, second.name, rows)
    tabled(third, "mask-match")
    unfinished = train(finetune, "attend-desk-gone", rows, seed=1, done=False)
    # two views
    assert study_results.curves("pretrain", "desk", ["loss"]).pictures.tolist() == [100]
    (row,) = study_results.curves("finetune", "desk", ["valid_ter"]).itertuples()
    assert (row.arm, row.total_pictures, row.valid_ter) == (
        "mask-match",
        50 + 2 * 200 + 2 * 100,
        0.9,
    )
    here = study_results.curves_of([third, unfinished], ["valid_ter"])
    assert here.total_pictures.iloc[0] == row.total_pictures
    assert np.isnan(here.total_pictures.iloc[1])
    assert study_results.curves("finetune", "desk", ["valid_ter"], dataset="synthetic").empty


def test_a_table_takes_its_place_and_no_other(tmp_path):
    text = ("a\n<!-- table:main -->\nold\n<!-- /table:main -->\n"
            "<!-- table:x -->\nkept\n<!-- /table:x -->\n")
    new = tables.filled(text, "main", "| new |")
    assert new == text.replace("old", "| new |")
    assert tables.filled(new, "main", "| new |") == new
    assert tables.filled("no marks", "main", "t") == "no marks"
    readme = (project_root() / "README.md").read_bytes()
    tables.publish_tables({"main": pd.DataFrame({"a": [1]})})
    assert (tmp_path / "figures" / "main.md").read_text() == "| a |\n| ---: |\n| 1 |\n"
    assert (project_root() / "README.md").read_bytes() == readme  # these figures go elsewhere


@pytest.fixture
def reader():
    torch.manual_seed(0)
    vocabulary = Vocabulary.crohme()
    return Reader(Recogniser(len(vocabulary), TINY).eval(), vocabulary, ViewConfig(), {}, Path(),
                  "", 0, 0.0)


def test_a_look_lies_on_the_ink(reader, make_ink):
    ink = make_ink(r"\frac{a}{b}+c", "e")
    tokens = canonical(ink.latex)
    looked = readings.attended_reading(reader, ink, tokens)
    h, w = looked.cross.shape[1:]
    assert looked.tokens == tuple(tokens)
    assert len(looked.cross) == len(tokens)
    assert (looked.cross.sum((1, 2)) <= 1 + 1e-5).all()
    np.testing.assert_allclose(looked.maps.sum((1, 2)), 1, rtol=1e-4)
    size, left_top = typical_size(ink.points, ink.stroke), ink.points.min(0)
    batch = InkBatch(torch.from_numpy((ink.points - left_top) / size),
                     torch.from_numpy(ink.stroke).long(),
                     torch.zeros(len(ink.points), dtype=torch.long), 1)
    cells = make_view(batch, ViewConfig().still(), torch.Generator()).points.numpy() / STRIDE
    left, right, bottom, top = looked.extent
    by_extent = (ink.points - (left, top)) / (right - left, bottom - top) * (w, h)
    np.testing.assert_allclose(by_extent, cells, atol=1e-3)
    assert readings.attended_reading(reader, ink, beam=1).tokens  # what random weights read


def test_figures_show_what_they_are_given(reader, make_ink):
    parts = pd.DataFrame({"arm": ["supervised", "supervised-total"], "subset": ["0", "0"],
                          "value": [0.5, 0.4], "low": [0.4, 0.3], "high": [0.6, 0.5], "n": [9, 9]})
    ink = make_ink("a+b", "e")
    looked = readings.attended_reading(reader, ink, ["a", "+", "b"])
    curves = pd.DataFrame({"arm": "supervised", "run": "r", "seed": 0, "total_pictures": [1.0, 2],
                           "total_minutes": [1.0, 2], "pictures": [1.0, 2], "valid_ter": [1, 0.5],
                           "valid_exprate": [0, 0.1]})
    with plots.style():
        fig = figures.parts_figure({"depth": parts, "length": parts[:0]}, {"depth": "nesting"},
                                   "TER")
        assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["0\nn = 9"]
        assert len(fig.axes) == 1
        fig = figures.parts_figure({"length": parts,
                                    "depth": parts.assign(value=3.0, low=2.0, high=4.0)},
                                   {"length": "tokens", "depth": "nesting"}, "TER")
        assert [ax.get_ylim()[0] for ax in fig.axes] == [0, 0]
        assert fig.axes[0].get_ylim()[1] >= 4  # the panels share an axis that holds both
        fig = figures.ratios_figure(parts.rename(columns={"subset": "part"}))
        legend = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
        assert legend == ["uniform over ink", "supervised", "supervised-total"]
        fig = readings.tokens_figure(ink, looked)
        assert [ax.get_title(loc="left") for ax in fig.axes[:3]] == ["1: a", "2: +", "3: b"]
        fig = readings.maps_figure([ink], [looked])
        assert len(fig.axes) == 1 + TINY.maps + 1  # and the colour bar
        fig = figures.learning_figure(curves)
        assert fig.axes[0].get_lines()[0].get_ydata().tolist() == [1, 0.5]
        empty = pd.DataFrame(columns=["run",
                                      "pictures", *(f"valid_{term}"
                                                    for term in figures.MATCH_TERMS)])
        first = curves.assign(valid_global_match=0.1, valid_local_match=0.2)
        assert [len(ax.get_lines()) for ax in figures.stages_figure(first, empty).axes] == [2, 0, 0]
        looks = pd.DataFrame({"model": ["a", "a", "b", "a"],
                              "losses": ["plain", "plain", "plain", "more"], "expressions": 9,
                              "median": [3, 2, 1, 0.5], "pictures": [600, 1_200, 600, 600],
                              "parameters": 2e6})
        axes = figures.rivals_figure(looks,
                                     {"training step, a": 10.0, "training step, b": 1.0}).axes
        assert [[line.get_xdata().tolist() for line in ax.get_lines()] for ax in axes] == [
            [[0.6, 1.2], [0.6]], [[1.0, 2.0], [10.0]], [[0.6]], [[1.0]]]
        assert [ax.get_title(loc="left") for ax in axes] == ["plain", "", "more", ""]
    plt.close("all")


def test_what_ships_is_named(reader, monkeypatch):
    assert study_results.shipped() is None
    assert study_results.shipped_arm() is None
    run = tabled(train(finetune, init="none"), "recogniser")
    monkeypatch.setattr(study_results, "shipped", lambda: replace(reader, run=run.name))
    assert "recogniser (ours, ships)" in set(tables.main_table().method)
    monkeypatch.setattr(study_results, "shipped", lambda: replace(reader, run="finetune-desk-gone"))
    assert study_results.shipped_arm() is None


def test_label_efficiency_is_drawn_for_the_shares_that_have_records():
    assert grid_results.efficiency().empty
    assert figures.efficiency_figure() is None
    for labels, errors in ((0.1, 5), (1.0, 2)):
        for seed in (0, 1):
            evaluated("mask-match", [errors] * 20, [10] * 20, profile="ablate", labels=labels,
                      seed=seed)
        evaluated("supervised-total, as written", [errors + 1] * 20, [10] * 20, profile="ablate",
                  labels=labels)
    evaluated("supervised on synthetic ink", [9] * 20, [10] * 20, profile="ablate", labels=0)
    frame = grid_results.efficiency().set_index(["arm", "labels"])
    assert frame.value["mask-match", 0.1] == pytest.approx(0.5)
    assert frame.seeds["mask-match", 1.0] == 2
    assert frame.value["supervised on synthetic ink", 0] == pytest.approx(0.9)
    fig = figures.efficiency_figure()
    ways = [grid_results.TAUGHT[way].replace("\n", " ") for way in ("", ", as written")]
    assert [ax.get_title() for ax in fig.axes] == ways  # without the way that has no second share
    assert [text.get_text() for text in fig.axes[0].get_xticklabels()] == ["10%", "100%"]
    marks = [(round(line.get_xdata()[0]), line.get_ydata()[0],
              line.get_markerfacecolor() != "white") for ax in fig.axes for line in ax.get_lines()
             if line.get_marker() in "oD"]
    assert marks == [(0, pytest.approx(0.5), True), (1, pytest.approx(0.2), True),
                     (0, pytest.approx(0.6), False), (1, pytest.approx(0.3), False)]
    plt.close(fig)


def test_ways_of_teaching_are_drawn_side_by_side():
    assert figures.taught_figure() is None
    for arm, errors in (("mask-match", 4), ("supervised-total", 2)):
        for seed in (0, 1):
            evaluated(arm, [errors] * 20, [10] * 20, profile="ablate", labels=0.1, seed=seed)
    assert figures.taught_figure() is None  # one way alone
    for arm, errors in (("mask-match", 5), ("supervised-total", 8)):
        evaluated(f"{arm}, cross-entropy alone", [errors] * 20, [10] * 20, profile="ablate",
                  labels=0.1)
    fig = figures.taught_figure()
    (ax,) = fig.axes
    assert [text.get_text() for text in ax.get_xticklabels()] == [
        grid_results.TAUGHT[""],
        grid_results.TAUGHT[", cross-entropy alone"],
    ]
    marks = {(round(line.get_xdata()[0]), round(line.get_ydata()[0], 2)): line.get_markerfacecolor()
             for line in ax.get_lines() if line.get_marker() in "osD^v*"}
    assert {place: mark == "white" for place, mark in marks.items()} == {
        (0, 0.4): False, (0, 0.2): False, (1, 0.5): True, (1, 0.8): True}
    plt.close(fig)


def test_area_of_the_masked_shares_is_a_mean():
    """TER 0, 0.1, 0.2, 0.3 at equal steps has the mean 0.15; the other's errors are
    twice as many.
    """
    assert grid_results.occluded().empty
    assert grid_results.occlusion_areas().empty
    for arm, factor in (("mask-match, masked ink", 1), ("supervised-total, masked ink", 2)):
        for step in range(4):
            evaluated(arm, [factor * step] * 20, [10] * 20, profile="ablate", occlusion=step / 10)
        evaluated(arm, [9] * 20, [10] * 20, profile="ablate", occlusion=0.3, metric="ter:removed")
    frame = grid_results.occluded().set_index(["arm", "way", "share"])
    assert frame.value["mask-match, masked ink", "visible mask", 0.2] == pytest.approx(0.2)
    assert frame.value["mask-match, masked ink", "silent removal", 0.3] == pytest.approx(0.9)
    assert frame.value["supervised-total, masked ink", "silent removal", 0.0] == 0
    areas = grid_results.occlusion_areas().set_index(["arm", "way"]).xs("visible mask", level="way")
    assert areas.area.tolist() == pytest.approx([0.15, 0.3])
    assert areas.rise.tolist() == pytest.approx([0.3, 0.6])
    assert areas.rise_low.tolist() == pytest.approx([0.3, 0.6])
    for step in range(3):  # a seed that was not read at every share does not count
        evaluated("mask-match, masked ink", [step * 3] * 20, [10] * 20, profile="ablate",
                  occlusion=step / 10, seed=1)
    assert set(grid_results.occlusion_areas().seeds) == {1}
    evaluated("mask-match, masked ink", [9] * 20, [10] * 20, profile="ablate", occlusion=0.3,
              seed=1)
    areas = grid_results.occlusion_areas().set_index(["arm", "way"])
    assert areas.seeds["mask-match, masked ink", "visible mask"] == 2
    assert areas.area["mask-match, masked ink", "visible mask"] == pytest.approx(0.3)
    fig = figures.occlusion_figure(grid_results.occluded())
    assert [ax.get_title() for ax in fig.axes] == ["visible mask", "silent removal"]
    plt.close(fig)


def test_probes_stand_beside_what_needs_no_encoder():
    assert tables.probes_table().encoder.tolist() == [comparisons.NO_RECORD]
    shared = {"stage": "probe", "profile": "desk", "dataset": "crohme", "split": "valid",
              "labels": 0, "seed": 0, "n": 9, "pictures": 0}
    for arm, value in (("mask-match", 0.5), ("untrained", 0.2)):
        records.append({**shared, "run": f"probe-{arm}", "arm": arm,
                        "metric": f"probe_{metric}{bound}", "value": value + add}
                       for metric in ("symbol_linear", "partner", "partner_cues",
                                      "geometry_linear_macro")
                       for bound, add in (("", 0), ("_low", -0.1), ("_high", 0.1)))
    table = tables.probes_table()
    assert table.encoder.tolist() == ["random weights (untrained)", "stages 1 and 2 (mask-match)",
                                      "no encoder"]
    assert table["symbol, linear"].tolist() == ["0.200 [0.100, 0.300]", "0.500 [0.400, 0.600]", ""]
    assert table["relation, linear, macro"].tolist() == ["", "", "0.200 [0.100, 0.300]"]
    assert table["finds its other view"].iloc[2] == "0.200 [0.100, 0.300]"
    records.append([{**shared, "run": "probe-x", "profile": "ablate", "arm": arm, "seed": seed,
                     "metric": "probe_symbol_linear", "value": 0.3}
                    for arm, seed in (("my own", 0), ("mae", 1), ("mae", 0))])
    seeds = tables.table("probes_ablate").encoder.tolist()
    assert seeds == ["stage 1 (mae, seed 0)", "stage 1 (mae, seed 1)", "stage 1 (my own, seed 0)",
                     "no encoder"]
