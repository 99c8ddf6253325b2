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
from mmlib.models.recogniser import TINY, Recogniser
from mmlib.read.reader import Reader
from mmlib.show import figures, readings
from mmlib.show import style as plots
from mmlib.store.runs import Run, RunError, project_root
from mmlib.study import claims, comparisons, grid_results, records, subsets, tables
from mmlib.study import results as study_results
from mmlib.study.grid import SYNTHETIC
from mmlib.train import attend, finetune, pretrain


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MMLIB_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "results"


def train(stage, start="none", rows=(), done=True, **changes):
    """A run of a stage that trained nothing."""
    config = stage.Config.preset("desk", dataset="crohme", **changes)
    run = Run.open(stage.__name__.split(".")[-1], "desk", config, {"data": "d", "init": start})
    with run.lock():
        for row in rows:
            run.log(**row)
        if done:
            run.finish(pictures=config.pictures)
    return run


def evaluated(arm, errors, length, seed=0, split="valid", trained="", ids=None, utc="2025-01-01T00:00:00Z", outcomes=True,
              profile="desk", occlusion=0.0, metric="ter", labels=1, without=(), weights=None):
    """An evaluation with its records: token errors and lengths of each expression."""
    errors, length = np.array(errors, float), np.array(length)
    inputs = {"weights": weights or f"{arm}{seed}{utc}{occlusion}{metric}{labels}"}
    run = Run.open("evaluate", profile, {"dataset": "crohme", "split": split, "without": list(without)}, inputs)
    ids = np.array([f"e{i}" for i in range(len(errors))] if ids is None else ids)
    result = Outcomes(ids, errors, errors * 0, length, errors == 0, errors * 0)
    score = result.summary()
    with run.lock():
        if outcomes:
            result.write_csv(run.folder / "outcomes.csv")
        run.finish(ter=score.ter, arm=arm, trained=trained)
    shared = {"run": run.name, "stage": "evaluate", "profile": profile, "arm": arm, "dataset": "crohme", "split": split,
              "labels": labels, "occlusion": occlusion, "seed": seed, "n": score.n, "pictures": 1000, "minutes": 2, "utc": utc}
    values = {metric: score.ter} | ({"exprate": score.exprate} if metric == "ter" else {})
    records.append({**shared, "metric": name, "value": value} for name, value in values.items())


def test_without_results_tables_say_so():
    assert (tables.arms_table("valid").seeds == comparisons.NO_RECORD).all()
    main = tables.main_table()
    assert len(main) == len(comparisons.COMPARED)
    assert (main.iloc[:, 2:] == comparisons.NO_RECORD).all(axis=None)
    assert comparisons.NO_RECORD in comparisons.verdict("mask-match", "supervised", "valid")
    assert all(frame.empty for frame in (
        comparisons.intervals("valid"), comparisons.differences([("a", "b")], "valid"), subsets.parts("valid", "length"),
        subsets.seen_unseen("valid"), study_results.curves("finetune", "desk", ["valid_ter"]),
    ))  # fmt: skip


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
    assert tables.arms_table("valid").set_index("arm").seeds["mask-match"] == comparisons.NO_RECORD, "not beside other budgets"
    fig = figures.grid_figure()
    (ax,) = fig.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["contrastive  (3 seeds)", "simclr  (1 seed)"]
    assert [text.get_text() for text in ax.texts] == ["whole method: minus mask-match", "objective of stage 1: minus mask-match"]
    assert [line.get_markerfacecolor() == "white" for line in fig.axes[0].lines if line.get_marker() == "o"] == [False, True]
    plt.close(fig)


def test_claims_say_no_more_than_their_seeds_carry():
    assert set(claims.claims_table().difference) == {comparisons.NO_RECORD}
    for seed, errors in enumerate((2, 3, 4)):
        evaluated("mask-match", [errors, errors + 1] * 20, [10] * 40, seed=seed, profile="ablate", labels=0.1)
        evaluated("supervised-total", [errors + 4, errors + 5] * 20, [10] * 40, seed=seed, profile="ablate", labels=0.1)
        evaluated("simclr", [errors, errors + 1] * 20, [10] * 40, seed=seed, profile="ablate", labels=0.1)
    evaluated("byol", [3, 4] * 20, [10] * 40, profile="ablate", labels=0.1)
    evaluated("mae", [0, 1] * 20, [10] * 40, profile="ablate", labels=0.1)
    table = claims.claims_table().set_index("compared with")
    assert table.difference["supervised-total"] == "TER +0.400 [+0.400, +0.400], p 0.001"
    assert table.difference["byol"].endswith("]"), "one seed: no p"
    assert table.seeds["supervised-total"] == "3"
    assert table.capped["supervised-total"] == "+0.400 [+0.400, +0.400], p 0.001"
    evaluated("byol", [3, 40] * 20, [10] * 40, profile="ablate", labels=0.1, utc="2026-01-01T00:00:00Z")
    assert claims.claims_table().set_index("compared with").capped["byol"].startswith("+0.400 ["), "40 errors count as 10"
    evaluated("byol", [3, 4] * 20, [10] * 40, profile="ablate", labels=0.1, utc="2026-02-01T00:00:00Z")
    assert table["what follows"][["supervised-total", "simclr", "byol", "mae"]].tolist() == [
        "ours has fewer errors", "no difference found",
        "one seed: no claim (ours has fewer errors, by less than its own seeds differ)",
        "one seed: no claim (ours has more errors)"]
    assert table.difference["supervised"] == comparisons.NO_RECORD
    assert tables.table("claims").equals(claims.claims_table())


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
    records.append([{"run": "probe", "stage": "probe", "profile": "ablate", "arm": "mask-match", "dataset": "crohme",
                     "split": "valid", "labels": 0, "seed": 0, "metric": "probe_symbol_linear", "value": 0.4, "n": 9,
                     "pictures": 7, "minutes": 1}])
    for labels in (0.1, 1.0):
        assert grid_results.grid_table(labels).set_index("arm")["TER minus its"][SYNTHETIC].startswith("+0.400 [")
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
    assert tuple(table.loc["mask-match", ["seeds", "n", "TER", "ExpRate"]]) == ("2", "2", "0.050", "75.0%")
    assert table.loc["supervised", "seeds"] == comparisons.NO_RECORD
    assert "extra" not in set(tables.arms_table("valid", others=False).arm)
    assert (tables.arms_table("test_2014").seeds == comparisons.NO_RECORD).all()


def test_main_table_tells_measured_from_published(results):
    results.mkdir()
    (results / "published.csv").write_text("method,dataset,metric,value,std,note\nA,test_2014,exprate,0.5838,0.0062,\n"
                                           "A,test_2016,exprate,0.5,,\nB,test_2014,exprate,0.82,,approximate; large\n")
    evaluated("mask-match", [0, 1, 0, 3], [5, 5, 5, 5], split="test_2014")
    evaluated("supervised", [0, 1, 0, 3], [5, 5, 5, 5], split="test_2014", outcomes=False)
    table = tables.main_table().set_index("method")
    assert table.loc["mask-match (ours)", "ExpRate 2014 (%)"].startswith("50.0 [")
    assert table.loc["supervised (ours)", "ExpRate 2014 (%)"] == "50.0"
    assert list(table.loc["A"]) == ["published", "58.38 ± 0.62", ""]
    assert table.loc["B", "ExpRate 2014 (%)"] == "about 82"
    assert not any("2016" in column for column in table)


def test_differences_are_paired_and_claim_nothing_from_one_seed():
    length = np.full(200, 10)
    evaluated("a", np.tile([1, 3], 100), length)
    evaluated("b", np.tile([2, 4], 100), length)
    row = comparisons.differences([("a", "b"), ("a", "missing")], "valid").iloc[0]
    assert row.value == pytest.approx(-0.1)
    assert row.low == pytest.approx(-0.1)  # paired: every expression differs by the same
    assert "no claim follows" in comparisons.verdict("a", "b", "valid")
    evaluated("whole", np.tile([1, 3], 100), length, weights="one training")
    evaluated("without its slots", np.tile([2, 4], 100), length, weights="one training", without=["slots"])
    assert comparisons.verdict("whole", "without its slots", "valid").endswith("whole is better.")  # no other seed is asked about
    for arm, add in (("a", 0), ("b", 1)):
        evaluated(arm, np.tile([1, 3], 100) + add, length, seed=1)
    assert comparisons.verdict("a", "b", "valid").endswith("a is better.")
    assert comparisons.verdict("b", "a", "valid").endswith("b is worse.")
    for seed, add in ((0, 1), (1, 8)):  # every expression is worse, but by how much the seeds do not agree
        evaluated("c", np.tile([1, 3], 100) + add, length, seed=seed)
    assert "so few seeds do not settle it" in comparisons.verdict("c", "a", "valid")
    assert comparisons.verdict("a", "a", "valid").endswith("no difference was found.")
    evaluated("other", [1, 2], [10, 10], ids=["x", "y"])
    with pytest.raises(RunError, match="not evaluated on the same expressions"):
        comparisons.differences([("a", "other")], "valid")


def test_parts_cover_each_readable_expression_once(results):
    length = np.arange(1, 41)
    evaluated("a", [*(length * 2), np.nan], [*length, 0])
    found = subsets.parts("valid", "length")
    assert found.n.sum() == 40
    np.testing.assert_allclose(found.value, 2)
    assert found.part.iloc[0].startswith("1 to")
    assert found.part.iloc[-1].endswith("to 40")
    (results / "traits").mkdir()
    rows = "".join(f"e{i},{i % 5},{int(i < 10)}\n" for i in range(40))
    (results / "traits" / "crohme-valid.csv").write_text("id,depth,seen\n" + rows + "e40,,\n")
    depth = subsets.parts("valid", "depth").set_index("part").n
    assert depth.to_dict() == {"0": 8, "1": 8, "2": 8, "3 and more": 16}
    seen = subsets.seen_unseen("valid")
    assert seen[seen.metric == "ExpRate"].set_index("part").n.to_dict() == {"unseen": 30, "seen": 10}


def test_traits_come_from_the_labels_and_hold_none(monkeypatch, make_ink, make_pack):
    labels = [r"x^2", r"\frac{1}{x^2}", "a+b"]
    pack = make_pack([make_ink(label, key=str(i)) for i, label in enumerate(labels)])
    part = type("Part", (), {"ids": pack.ids, "tokens": [*(pack.tokens(i) for i in range(2)), None]})
    corpus = type("Corpus", (), {"pack": pack, "train": np.array([0, 2])})
    monkeypatch.setattr("mmlib.data.corpus.load_corpus", lambda dataset: corpus)
    monkeypatch.setattr("mmlib.study.evaluate.load_part", lambda dataset, split: part)
    assert subsets.write_traits("valid").read_text().splitlines() == ["id,depth,seen", "0,1,1", "1,2,0", "2,,"]
    assert subsets.traits("valid")["1"] == {"depth": 2, "seen": 0}


def test_arms_are_told_by_what_a_run_starts_from():
    first, simclr = train(pretrain), train(pretrain, balance=1.0)
    second, fixed = train(attend, first.name), train(attend, simclr.name, schedule="fixed", init=simclr.name)
    more = finetune.Config.preset("desk").pictures + 1
    assert [study_results.arm_of(run) for run in (first, simclr, train(pretrain, balance=0.0), second)] == [
        "contrastive", "simclr", "dense", "mask-match"]
    assert study_results.arm_of(fixed) == "mask-match from simclr, schedule=fixed"
    assert study_results.arm_of(train(pretrain, objective="byol")) == "byol"
    wanted = {"mask-match": {}, "contrastive": {"init": "pretrain"}, "supervised": {"init": "none"},
              "supervised-total": {"init": "none", "pictures": more}, "recogniser": {"full_data": True},
              "mask-match, point_weight=0.0": {"point_weight": 0.0}, "supervised, mask_share=[0.1, 0.5]": {
                  "init": "none", "mask_share": (0.1, 0.5)}, "simclr": {"init": simclr.name},
              "supervised, optim.lr=0.1": {"init": "none", "optim": replace(finetune.Config().optim, lr=0.1)}}
    for name, changes in wanted.items():
        run = train(finetune, **changes)
        assert study_results.arm_of(run) == name
    evaluated("recogniser", [1], [2], trained=run.name)
    assert study_results.arm_of(run) == "recogniser"
    evaluated("named", [1], [2], trained=run.name)
    assert study_results.arm_of(run) == "named"


def test_curves_count_what_came_before():
    at = {"step": 1, "pictures": 50, "minutes": 1.0}
    rows = [{**at, "loss": 2.0}, {**at, "valid_ter": 0.9}]
    first = train(pretrain, rows=rows, pictures=100)
    second = train(attend, first.name, pictures=200)
    train(finetune, second.name, rows)
    train(finetune, "attend-desk-gone", rows, seed=1)
    train(finetune, rows=rows, init="none", done=False)
    assert study_results.curves("pretrain", "desk", ["loss"]).pictures.tolist() == [100]  # two views
    frame = study_results.curves("finetune", "desk", ["valid_ter"]).set_index(["arm", "seed"])
    assert frame.loc[("mask-match", 0), "total_pictures"] == 50 + 2 * 200 + 2 * 100
    assert np.isnan(frame.loc[("mask-match", 1), "total_pictures"])
    assert frame.loc[("supervised", 0), ["total_pictures", "done"]].tolist() == [50, False]
    assert len(study_results.curves("finetune", "desk", ["valid_ter"], done=True)) == 2
    assert study_results.curves("finetune", "desk", ["valid_ter"], dataset="synthetic").empty


def test_a_table_takes_its_place_and_no_other(tmp_path):
    text = "a\n<!-- table:main -->\nold\n<!-- /table:main -->\n<!-- table:x -->\nkept\n<!-- /table:x -->\n"
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
    return Reader(Recogniser(len(vocabulary), TINY).eval(), vocabulary, ViewConfig(), {}, Path(), "", 0, 0.0)


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
    batch = InkBatch(torch.from_numpy((ink.points - left_top) / size), torch.from_numpy(ink.stroke).long(),
                     torch.zeros(len(ink.points), dtype=torch.long), 1)
    cells = make_view(batch, ViewConfig().still(), torch.Generator()).points.numpy() / STRIDE
    left, right, bottom, top = looked.extent
    by_extent = (ink.points - (left, top)) / (right - left, bottom - top) * (w, h)
    np.testing.assert_allclose(by_extent, cells, atol=1e-3)
    assert readings.attended_reading(reader, ink, beam=1).tokens  # what random weights read


def test_figures_show_what_they_are_given(reader, make_ink):
    parts = pd.DataFrame({"arm": ["supervised", "supervised-total"], "part": ["0", "0"], "value": [0.5, 0.4], "low": [0.4, 0.3],
                          "high": [0.6, 0.5], "n": [9, 9]})
    ink = make_ink("a+b", "e")
    looked = readings.attended_reading(reader, ink, ["a", "+", "b"])
    curves = pd.DataFrame({"arm": "supervised", "run": "r", "seed": 0, "total_pictures": [1.0, 2], "total_minutes": [1.0, 2],
                           "pictures": [1.0, 2], "valid_ter": [1, 0.5], "valid_exprate": [0, 0.1]})
    with plots.style():
        fig = figures.parts_figure({"depth": parts, "length": parts[:0]}, {"depth": "nesting"}, "TER")
        assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["0\nn = 9"]
        assert len(fig.axes) == 1
        fig = figures.parts_figure({"length": parts, "depth": parts.assign(value=3.0, low=2.0, high=4.0)},
                                  {"length": "tokens", "depth": "nesting"}, "TER")
        assert [ax.get_ylim()[0] for ax in fig.axes] == [0, 0]
        assert fig.axes[0].get_ylim()[1] >= 4  # the panels share an axis that holds both
        fig = figures.ratios_figure(parts)
        legend = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
        assert legend == ["uniform over ink", "supervised", "supervised-total"]
        fig = readings.tokens_figure(ink, looked)
        assert [ax.get_title(loc="left") for ax in fig.axes[:3]] == ["1: a", "2: +", "3: b"]
        fig = readings.maps_figure([ink], [looked])
        assert len(fig.axes) == 1 + TINY.maps + 1  # and the colour bar
        fig = figures.learning_figure(curves)
        assert fig.axes[0].get_lines()[0].get_ydata().tolist() == [1, 0.5]
        empty = pd.DataFrame(columns=["run", "pictures", *(f"valid_{term}" for term in figures.MATCH_TERMS)])
        first = curves.assign(valid_global_match=0.1, valid_local_match=0.2)
        assert [len(ax.get_lines()) for ax in figures.stages_figure(first, empty).axes] == [2, 0, 0]
        looks = pd.DataFrame({"model": ["a", "a", "b", "a"], "losses": ["plain", "plain", "plain", "more"], "expressions": 9,
                              "median": [3, 2, 1, 0.5], "pictures": [600, 1_200, 600, 600], "parameters": 2e6})
        axes = figures.rivals_figure(looks, {"training step, a": 10.0, "training step, b": 1.0}).axes
        assert [[line.get_xdata().tolist() for line in ax.get_lines()] for ax in axes] == [
            [[0.6, 1.2], [0.6]], [[1.0, 2.0], [10.0]], [[0.6]], [[1.0]]]
        assert [ax.get_title(loc="left") for ax in axes] == ["plain", "", "more", ""]
    plt.close("all")


def test_what_ships_is_named(results, reader, monkeypatch):
    assert study_results.shipped() is None
    assert study_results.shipped_arm() is None
    run = train(finetune, init="none")
    monkeypatch.setattr(study_results, "shipped", lambda: replace(reader, run=run.name))
    assert "supervised (ours, ships)" in set(tables.main_table().method)
    monkeypatch.setattr(study_results, "shipped", lambda: replace(reader, run="finetune-desk-gone"))
    assert study_results.shipped_arm() is None


def test_label_efficiency_is_drawn_for_the_shares_that_have_records():
    assert grid_results.efficiency().empty
    assert figures.efficiency_figure() is None
    for labels, errors in ((0.1, 5), (1.0, 2)):
        for seed in (0, 1):
            evaluated("mask-match", [errors] * 20, [10] * 20, profile="ablate", labels=labels, seed=seed)
        evaluated("supervised-total, as written", [errors + 1] * 20, [10] * 20, profile="ablate", labels=labels)
    evaluated("supervised on synthetic ink", [9] * 20, [10] * 20, profile="ablate", labels=0)
    frame = grid_results.efficiency().set_index(["arm", "labels"])
    assert frame.value["mask-match", 0.1] == pytest.approx(0.5)
    assert frame.seeds["mask-match", 1.0] == 2
    assert frame.value["supervised on synthetic ink", 0] == pytest.approx(0.9)
    fig = figures.efficiency_figure()
    ways = [grid_results.TAUGHT[way].replace("\n", " ") for way in ("", ", as written")]
    assert [ax.get_title() for ax in fig.axes] == ways  # without the way that has no second share
    assert [text.get_text() for text in fig.axes[0].get_xticklabels()] == ["10%", "100%"]
    marks = [(round(line.get_xdata()[0]), line.get_ydata()[0], line.get_markerfacecolor() != "white")
             for ax in fig.axes for line in ax.get_lines() if line.get_marker() in "oD"]
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
        evaluated(f"{arm}, cross-entropy alone", [errors] * 20, [10] * 20, profile="ablate", labels=0.1)
    fig = figures.taught_figure()
    (ax,) = fig.axes
    assert [text.get_text() for text in ax.get_xticklabels()] == [grid_results.TAUGHT[""], grid_results.TAUGHT[", cross-entropy alone"]]
    marks = {(round(line.get_xdata()[0]), round(line.get_ydata()[0], 2)): line.get_markerfacecolor() for line in ax.get_lines()
             if line.get_marker() in "osD^v*"}
    assert {place: mark == "white" for place, mark in marks.items()} == {
        (0, 0.4): False, (0, 0.2): False, (1, 0.5): True, (1, 0.8): True}
    plt.close(fig)


def test_area_under_covers_is_a_mean_over_shares():
    """TER 0, 0.1, 0.2, 0.3 at equal steps has the mean 0.15; the other's errors are twice as many."""
    assert grid_results.occluded().empty
    assert grid_results.occlusion_areas().empty
    for arm, factor in (("mask-match, covers", 1), ("supervised-total, covers", 2)):
        for step in range(4):
            evaluated(arm, [factor * step] * 20, [10] * 20, profile="ablate", occlusion=step / 10)
        evaluated(arm, [9] * 20, [10] * 20, profile="ablate", occlusion=0.3, metric="ter:removed")
    frame = grid_results.occluded().set_index(["arm", "way", "share"])
    assert frame.value["mask-match, covers", "visible mask", 0.2] == pytest.approx(0.2)
    assert frame.value["mask-match, covers", "silent removal", 0.3] == pytest.approx(0.9)
    assert frame.value["supervised-total, covers", "silent removal", 0.0] == 0
    areas = grid_results.occlusion_areas().set_index(["arm", "way"])
    assert areas.area["mask-match, covers", "visible mask"] == pytest.approx(0.15)
    other = areas.loc["supervised-total, covers", "visible mask"]
    assert (other.area, other.difference, other.relative) == pytest.approx((0.3, -0.15, -0.5))
    assert other.against == "mask-match, covers"
    rises = areas.xs("visible mask", level="way").rise
    assert rises.tolist() == pytest.approx([0.3, 0.6])
    assert (other.rise_difference, other.rise_difference_low) == pytest.approx((-0.3, -0.3))
    for seed, errors in ((1, 3), (2, 2)):  # one arm has a seed more, which is compared with nothing
        for arm, factor in (("mask-match, covers", 1), *[("supervised-total, covers", 2)] * (seed == 1)):
            for step in range(4):
                evaluated(arm, [factor * step * errors] * 20, [10] * 20, profile="ablate", occlusion=step / 10, seed=seed)
    other = grid_results.occlusion_areas().set_index(["arm", "way"]).loc["supervised-total, covers", "visible mask"]
    assert (other.common, other.difference, other.rise_difference) == pytest.approx((2, -0.3, -0.6))
    assert grid_results.occlusion_areas().seeds.tolist() == [3, 2, 1, 1], "visible mask, silent removal"
    assert other.difference_p == pytest.approx(0.295, abs=0.01)  # a paired t-test of two seeds, -0.15 and -0.45
    fig = figures.occlusion_figure(grid_results.occluded())
    assert [ax.get_title() for ax in fig.axes] == ["visible mask", "silent removal"]
    plt.close(fig)


def test_probes_stand_beside_what_needs_no_encoder():
    assert tables.probes_table().encoder.tolist() == [comparisons.NO_RECORD]
    shared = {"stage": "probe", "profile": "desk", "dataset": "crohme", "split": "valid", "labels": 0, "seed": 0, "n": 9,
              "pictures": 0}
    for arm, value in (("mask-match", 0.5), ("untrained", 0.2)):
        records.append({**shared, "run": f"probe-{arm}", "arm": arm, "metric": f"probe_{metric}{bound}", "value": value + add}
                       for metric in ("symbol_linear", "partner", "partner_cues", "geometry_linear_macro")
                       for bound, add in (("", 0), ("_low", -0.1), ("_high", 0.1)))
    table = tables.probes_table()
    assert table.encoder.tolist() == ["random weights (untrained)", "stages 1 and 2 (mask-match)", "no encoder"]
    assert table["symbol, linear"].tolist() == ["0.200 [0.100, 0.300]", "0.500 [0.400, 0.600]", ""]
    assert table["relation, linear, macro"].tolist() == ["", "", "0.200 [0.100, 0.300]"]
    assert table["finds its other view"].iloc[2] == "0.200 [0.100, 0.300]"
    records.append([{**shared, "run": "probe-x", "profile": "ablate", "arm": arm, "seed": seed, "metric": "probe_symbol_linear",
                     "value": 0.3} for arm, seed in (("my own", 0), ("mae", 1), ("mae", 0))])
    seeds = tables.table("probes_ablate").encoder.tolist()
    assert seeds == ["stage 1 (mae, seed 0)", "stage 1 (mae, seed 1)", "stage 1 (my own, seed 0)", "no encoder"]
