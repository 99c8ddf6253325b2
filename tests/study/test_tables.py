"""Tables from made-up results whose answers are known."""

import json

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
from mmlib.show import figures
from mmlib.show import style as plots
from mmlib.show.ink import tokens_figure
from mmlib.store.files import RunError, project_root, results_root, write_atomic
from mmlib.store.run import Run
from mmlib.study import claims, comparisons, records, tables
from mmlib.study import results as study_results
from mmlib.study.arms import COMPARED
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
              utc="2025-01-01T00:00:00Z", profile="desk", occlusion=0.0,
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
    study_results.collect()
    return run


def test_without_results_tables_say_so():
    assert (tables.arms_table("valid").seeds == comparisons.NO_RECORD).all()
    main = tables.main_table()
    assert len(main) == len(tables.MAIN)
    assert (main.iloc[:, 1:4] == comparisons.NO_RECORD).all(axis=None)
    assert all(frame.empty
               for frame in (comparisons.differences([("a", "b")], "valid"),
                             comparisons.by_subset("valid", "length"),
                             comparisons.by_subset("valid", "seen"),
                             study_results.curves("finetune", "desk", ["valid_ter"])))


SHARED = {"profile": "study", "labels": claims.LABELS}


def of_seeds(arm, errors, seeds=claims.SEEDS, **changes):
    """An arm with the same errors in all expressions of a seed, 40 expressions of 10 tokens."""
    for seed, count in zip(seeds, errors, strict=False):
        evaluated(arm, [count, count + 1] * 20, [10] * 40, seed=seed, **SHARED | changes)


def test_claims_say_no_more_than_their_seeds_carry():
    assert set(claims.claims_table()["verdict"]) == {comparisons.NO_RECORD}
    of_seeds("mask-match", (1, 2, 3, 2, 1, 1, 2, 1))
    of_seeds("supervised-total", (5, 6, 7, 6, 5, 5, 6, 5))
    of_seeds("contrastive", (1, 2, 3, 2, 1, 1, 2, 1))
    of_seeds("fixed share", (5, 6, 7, 6, 5, 5, 6, 5))
    of_seeds("simclr", (0, 1, 2, 1, 0, 2))
    of_seeds("match alone", (4, 6, 6, 6, 5, 5, 6, 5))
    of_seeds("mae", (40, 40, 40, 40))
    of_seeds("mae", (9, 9, 9, 9, 9), seeds=(10, 11, 12))  # the pilot's
    table = claims.claims_table()
    alone = table.claim.str.startswith("the match alone")
    assert table[alone].iloc[0, 3:].tolist() == ["2 of 8", "no difference found"]
    table = table[~alone].set_index("compared with")
    less = table["capped TER, rival minus ours"]
    flips = "+0.400 [+0.400, +0.400], p 0.008 (t-test 0.000)"
    assert less["supervised-total"] == flips, "2 of 2^8 sign flips; every seed says the same"
    assert less["mae"].startswith("+0.750 ["), "40 errors count as 10"
    arms = ["supervised-total", "contrastive", "fixed share", "simclr", "mae"]
    assert table["seeds in favour"][arms].tolist() == ["8 of 8", "0 of 8", "8 of 8", "1 of 6",
                                                       "4 of 4"]
    assert table["verdict"][arms].tolist() == [
        "ours has fewer errors", "no difference found",
        "not tested: a hypothesis before it does not hold", "no difference found",
        "not tested: 4 seeds"]
    assert len(alone) <= 8
    assert tables.table("claims").equals(claims.claims_table())


def test_the_second_endpoint_pairs_seeds():
    assert claims.second_endpoint().empty
    losses = {"mask-match": {20: 1.0, 21: 1.2}, "supervised-total": {20: 1.5, 21: 1.1, 22: 9.0}}
    rows = [{"run": "x", "arm": arm, "seed": seed, "nats per token": nats}
            for arm, own in losses.items() for seed, nats in own.items()]
    write_atomic(results_root() / "trials" / "second_endpoint.json", json.dumps({"rows": rows}))
    assert claims.second_endpoint().to_numpy().tolist() == [
        ["mask-match", "1.100 ± 0.141 (n = 2)", "", ""],
        ["supervised-total", "3.867 ± 4.450 (n = 3)", "0.200 ± 0.424 (n = 2)", "1 of 2"]]


def test_an_arm_that_fails_a_gate_tests_nothing():
    first = tabled(train(pretrain), "mask-match")
    second = train(attend, first.name)
    tuned = {}
    for arm, start in (("mask-match", second.name), ("supervised-total", "none")):
        for seed in claims.SEEDS[:6]:
            tuned[arm, seed] = train(finetune, start, seed=seed)
    study_results.add([second, *tuned.values()], {run.name: {"arm": "x"}
                                                  for run in (second, *tuned.values())})
    for (arm, seed), run in tuned.items():
        evaluated(arm, [1 if arm == "mask-match" else 5] * 20, [10] * 20, seed=seed,
                  trained=run.name, **SHARED)
    verdict = "ours has fewer errors, after 6 of 8 seeds"  # p is 1/32
    assert claims.claims_table().verdict[0] == verdict
    rows = study_results.run_rows()
    ours = tuned["mask-match", claims.SEEDS[0]].name
    assert claims.chain_faults(ours, rows) == []
    rows[second.name]["summary"]["gates"] = ["too few updates"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_results, "run_rows", lambda: rows)
        assert claims.chain_faults(ours, rows) == ["too few updates"]
        assert claims.claims_table().verdict[0] == "not tested: too few updates"


def test_what_the_first_study_said_of_stage_2_is_withdrawn():
    first = tabled(train(pretrain), "mask-match")
    second = tabled(train(attend, first.name), "mask-match")
    for arm, start in (("mask-match", second), ("contrastive", first)):
        run = tabled(train(finetune, start.name), arm)
        for seed in range(2):
            evaluated(arm, [seed + 1] * 20, [10] * 20, seed=seed, profile="ablate", labels=0.1,
                      trained=run.name)
    frame = tables.table("first_study").set_index("arm")
    assert frame["10%"].to_dict() == {"contrastive": "0.150 ± 0.071 (n = 2)"}


def test_arms_are_compared_over_the_seeds_that_both_have():
    of_seeds("mask-match", (0, 1, 2), seeds=(0, 1, 2))
    of_seeds("simclr", (5,), seeds=(2,))
    of_seeds("dense", (5,), seeds=(7,))
    pairs = [("simclr", "mask-match"), ("dense", "mask-match")]
    found = comparisons.differences(pairs, "valid", **SHARED).set_index("a")
    assert found.value["simclr"] == pytest.approx(0.55 - 0.25)
    assert found.seeds["simclr"] == 1
    assert "dense" not in found.index, "no seed in common"
    none = tables.arms_table("valid").set_index("arm").seeds["mask-match"]
    assert none == comparisons.NO_RECORD, "not beside other budgets"
    several = comparisons.differences([("mask-match", "mask-match")], "valid", **SHARED)
    fig = figures.differences_figure(pd.concat([found.reset_index(), several]), "TER")
    (ax,) = fig.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "simclr, 1 seed", "Mask & Match\n(mask-match), 3 seeds"]
    assert [line.get_markerfacecolor() == "white" for line in ax.lines
            if line.get_marker() in "^o"] == [True, False]
    plt.close(fig)


def test_an_expression_written_on_and_on_counts_once_where_errors_are_capped():
    evaluated("mask-match", [1] * 39 + [0], [10] * 40, **SHARED)
    evaluated("contrastive", [1] * 39 + [400], [10] * 40, **SHARED)
    pair = [("contrastive", "mask-match")]
    for metric, less in (("ter", 1.0), ("capped", 0.025)):
        found = comparisons.differences(pair, "valid", metric, **SHARED)
        assert found.value[0] == pytest.approx(less)


def test_arms_are_means_over_seeds_of_the_newest_records():
    evaluated("mask-match", [9, 9], [10, 10], utc="2025-01-01T00:00:00Z")
    evaluated("mask-match", [0, 2], [10, 10], utc="2025-02-01T00:00:00Z")
    evaluated("mask-match", [0, 0], [10, 10], seed=1)
    evaluated("extra", [1, 1], [10, 10])
    table = tables.arms_table("valid").set_index("arm")
    assert list(table.index) == [*COMPARED, "extra"]
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
    ours, three = "recogniser", "recogniser, three sizes"
    evaluated(ours, [0, 1, 0, 3], [5, 5, 5, 5], split="test_2014")
    evaluated(ours, [0, 1, 0, 3], [5, 5, 5, 5], split="test_2016_pictures")
    table = tables.main_table().set_index("method").fillna("")
    own = table.loc[f"{ours} (ours)"]
    assert own["ExpRate 2014 (%)"].startswith("50.0 [")
    assert own["ExpRate 2016 (%)"] == comparisons.NO_RECORD, "pictures are not the ink"
    assert table.loc[f"{three} (ours)", "ExpRate 2014 (%)"] == comparisons.NO_RECORD
    assert list(table.loc["A"]) == ["58.38 ± 0.62", "50.00", "", "LgEval"]
    assert "B" not in table.index


def test_differences_are_paired():
    length = np.full(200, 10)
    evaluated("a", np.tile([1, 3], 100), length)
    evaluated("b", np.tile([2, 4], 100), length)
    row = comparisons.differences([("a", "b"), ("a", "missing")], "valid").iloc[0]
    assert row.value == pytest.approx(-0.1)
    assert row.low == pytest.approx(-0.1)  # paired: every expression differs by the same
    evaluated("other", [1, 2], [10, 10], ids=["x", "y"])
    with pytest.raises(RunError, match="not evaluated on the same expressions"):
        comparisons.differences([("a", "other")], "valid")


def test_subsets_hold_each_readable_expression_once():
    length = np.arange(1, 41)
    evaluated("a", [*(length * 2), np.nan], [*length, 0])
    found = comparisons.by_subset("valid", "length", arms=["a"])
    assert found.n.sum() == 40
    np.testing.assert_allclose(found.value, 2)
    assert found.subset.iloc[0].startswith("1 to")
    assert found.subset.iloc[-1].endswith("to 40")
    study_results.add_traits("valid", "crohme",
                             {f"e{i}": {"depth": i % 5, "seen": int(i < 10)} for i in range(40)})
    depth = comparisons.by_subset("valid", "depth", arms=["a"]).set_index("subset").n
    assert depth.to_dict() == {"0": 8, "1": 8, "2": 8, "3 and more": 16}
    seen = comparisons.by_subset("valid", "seen", ("ter", "exprate"), ["a"])
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
    here = study_results.curve_of(third, ["valid_ter"])
    assert here.total_pictures.tolist() == [row.total_pictures]
    assert study_results.curve_of(unfinished, ["valid_ter"]).total_pictures.isna().all()
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
    looked = reader.attended(ink, tokens)
    h, w = looked.cross.shape[1:]
    assert looked.tokens == tuple(tokens)
    assert len(looked.cross) == len(tokens)
    assert (looked.cross.sum((1, 2)) <= 1 + 1e-5).all()
    size, left_top = typical_size(ink.points, ink.stroke), ink.points.min(0)
    batch = InkBatch(torch.from_numpy((ink.points - left_top) / size),
                     torch.from_numpy(ink.stroke).long(),
                     torch.zeros(len(ink.points), dtype=torch.long), 1)
    cells = make_view(batch, ViewConfig().still(), torch.Generator()).points.numpy() / STRIDE
    left, right, bottom, top = looked.extent
    by_extent = (ink.points - (left, top)) / (right - left, bottom - top) * (w, h)
    np.testing.assert_allclose(by_extent, cells, atol=1e-3)
    assert reader.attended(ink, beam=1).tokens  # what random weights read


def test_figures_show_what_they_are_given(reader, make_ink):
    parts = pd.DataFrame({"arm": ["supervised", "supervised-total"], "subset": ["0", "0"],
                          "value": [0.5, 0.4], "low": [0.4, 0.3], "high": [0.6, 0.5], "n": [9, 9]})
    ink = make_ink("a+b", "e")
    looked = reader.attended(ink, ["a", "+", "b"])
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
        fig = tokens_figure(ink, looked)
        assert [ax.get_title(loc="left") for ax in fig.axes[:3]] == ["1: a", "2: +", "3: b"]
        arms = parts.assign(arm=["Mask & Match, x", "labels alone"], pictures=9_000)
        fig = figures.pilot_figure(arms, "labels alone")
        ticks = [text.get_text() for text in fig.axes[0].get_yticklabels()]
        assert ticks == ["labels alone", "x"], "fewest errors first"
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
                              "minutes": [1.0, 2, 10, 1], "parameters": 2e6})
        axes = figures.rivals_figure(looks).axes
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


def test_errors_are_drawn_for_the_shares_of_labels_that_have_records():
    arms = ("mask-match", "supervised-total")
    assert comparisons.by_labels(arms).empty
    for labels, errors in ((0.1, 5), (1.0, 2)):
        for seed in (0, 1):
            evaluated("mask-match", [errors] * 20, [10] * 20, seed=seed,
                      **SHARED | {"labels": labels})
        assert comparisons.by_labels(arms).empty == (labels == 0.1), "one share is no curve"
        evaluated("supervised-total", [errors + 1] * 20, [10] * 20, **SHARED | {"labels": labels})
    frame = comparisons.by_labels(arms)
    fig = figures.parts_figure({"labels": frame}, {"labels": "share"}, "TER")
    (ax,) = fig.axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10%\nn = 20", "100%\nn = 20"]
    marks = [(round(line.get_xdata()[0]), line.get_ydata()[0],
              line.get_markerfacecolor() != "white") for line in ax.get_lines()
             if line.get_marker() in "oD"]
    assert marks == [(0, pytest.approx(0.5), True), (1, pytest.approx(0.2), True),
                     (0, pytest.approx(0.6), False), (1, pytest.approx(0.3), False)]
    plt.close(fig)


def test_area_of_the_masked_shares_is_a_mean():
    """TER 0, 0.1, 0.2, 0.3 at equal steps has the mean 0.15; the other's errors are
    twice as many.
    """
    assert comparisons.occluded(claims.LABELS).empty
    assert comparisons.occlusion_areas(claims.LABELS).empty
    for arm, factor in (("mask-match, masked ink", 1), ("supervised-total, masked ink", 2)):
        for step in range(4):
            evaluated(arm, [factor * step] * 20, [10] * 20, **SHARED, occlusion=step / 10)
        evaluated(arm, [9] * 20, [10] * 20, **SHARED, occlusion=0.3, metric="ter:removed")
    frame = comparisons.occluded(claims.LABELS).set_index(["arm", "way", "share"])
    assert frame.value["mask-match, masked ink", "visible mask", 0.2] == pytest.approx(0.2)
    assert frame.value["mask-match, masked ink", "silent removal", 0.3] == pytest.approx(0.9)
    assert frame.value["supervised-total, masked ink", "silent removal", 0.0] == 0
    areas = comparisons.occlusion_areas(claims.LABELS).set_index(["arm", "way"])
    areas = areas.xs("visible mask", level="way")
    assert areas.value.tolist() == pytest.approx([0.15, 0.3])
    for step in range(3):  # a seed that was not read at every share does not count
        evaluated("mask-match, masked ink", [step * 3] * 20, [10] * 20, **SHARED,
                  occlusion=step / 10, seed=1)
    assert set(comparisons.occlusion_areas(claims.LABELS).seeds) == {1}
    evaluated("mask-match, masked ink", [9] * 20, [10] * 20, **SHARED, occlusion=0.3,
              seed=1)
    areas = comparisons.occlusion_areas(claims.LABELS).set_index(["arm", "way"])
    assert areas.seeds["mask-match, masked ink", "visible mask"] == 2
    assert areas.value["mask-match, masked ink", "visible mask"] == pytest.approx(0.3)
    fig = figures.occlusion_figure(comparisons.occluded(claims.LABELS))
    assert [ax.get_title() for ax in fig.axes] == ["visible mask", "silent removal"]
    plt.close(fig)


def test_probes_stand_beside_what_needs_no_encoder():
    assert tables.probes_table().encoder.tolist() == [comparisons.NO_RECORD]
    shared = {"stage": "probe", "profile": "desk", "dataset": "crohme", "split": "valid",
              "labels": 0, "seed": 0, "n": 9, "pictures": 0}
    for arm, value in (("mask-match", 0.5), ("untrained", 0.2)):
        records.append({**shared, "run": f"probe-{arm}", "arm": arm,
                        "metric": f"probe_{metric}{bound}", "value": value + add}
                       for metric in ("symbol_linear", "geometry_linear_macro")
                       for bound, add in (("", 0), ("_low", -0.1), ("_high", 0.1)))
    table = tables.probes_table()
    assert table.encoder.tolist() == ["random weights", "stages 1 and 2", "no encoder"]
    assert table["symbol, linear"].tolist() == ["0.200 [0.100, 0.300]", "0.500 [0.400, 0.600]", ""]
    assert table["relation, linear, macro"].tolist() == ["", "", "0.200 [0.100, 0.300]"]
    records.append([{**shared, "run": "probe-x", "profile": "ablate", "arm": arm, "seed": seed,
                     "metric": "probe_symbol_linear", "value": 0.3}
                    for arm, seed in (("my own", 0), ("mae", 1), ("mae", 0))])
    seeds = tables.table("probes_ablate").encoder.tolist()
    assert seeds == ["mae, seed 0", "mae, seed 1", "my own, seed 0", "no encoder"]
