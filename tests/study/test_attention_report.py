from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib import cli
from mmlib.data.sample import collate, from_pack
from mmlib.draw.views import STRIDE, make_view
from mmlib.measure.attention import CLASSES, symbol_classes, uniform_over_ink
from mmlib.show.ink import view_ink
from mmlib.store.run import Run
from mmlib.study import attention_report as report
from mmlib.study import records
from mmlib.synthetic.compose import synthetic_ink
from mmlib.train import attend
from mmlib.train.profiles import TINY, preset

CONFIG = preset("attend", "smoke")


@pytest.fixture
def pack(make_pack):
    return make_pack(synthetic_ink(24, 5))


@pytest.fixture
def student():
    torch.manual_seed(0)
    return attend.Student(CONFIG.encoder, TINY.maps).eval()


@pytest.fixture
def seen(student, pack):
    return report.see(student, pack, range(len(pack)), CONFIG.view)


def values(rows, metric, arm=report.OURS):
    return {row["part"]: row["value"] for row in rows
            if (row["arm"], row["metric"]) == (arm, metric)}


def rigged(monkeypatch, seen, make):
    """`report` on maps (h, w) that `make(seen)` gives, all k alike; untrained weights see what they
    see.
    """
    ours = [replace(s, maps=np.stack([make(s) / make(s).sum()] * TINY.maps)) for s in seen]
    answers = iter([ours, seen])
    monkeypatch.setattr(report, "see", lambda *_: next(answers))


def test_maps_are_distributions_on_the_expressions_own_canvas(seen, pack):
    assert [s.index for s in seen] == list(range(len(pack)))
    for s in seen:
        np.testing.assert_allclose(s.maps.sum((1, 2)), 1, atol=1e-5)
        width, height = s.points.max(0) + CONFIG.view.margin
        h, w = s.norm.shape
        assert h == max(2, np.ceil(height / STRIDE - 1e-3))
        assert w == max(2, np.ceil(width / STRIDE - 1e-3))
        assert s.maps.shape == (TINY.maps, h, w)


def test_points_carry_the_ink_of_each_symbol(seen, pack):
    for s in seen:
        ink = pack[s.index]
        assert s.member.any(1).tolist() == symbol_classes(ink).any(1).tolist()
        drawn = sum(np.linalg.norm(np.diff(stroke, axis=0), axis=1).sum()
                    for stroke in ink.strokes()) * CONFIG.view.symbol
        assert s.length.sum() == pytest.approx(drawn, rel=0.02, abs=0.1)


def test_what_is_seen_does_not_depend_on_the_batch(student, pack, seen):
    alone = report.see(student, pack, [3, 11], CONFIG.view, most=1)
    for a, b in zip(alone, (seen[3], seen[11]), strict=True):
        np.testing.assert_allclose(a.maps, b.maps, atol=1e-6)
        np.testing.assert_allclose(a.points, b.points)


def test_a_map_that_is_uniform_over_ink_prefers_nothing(monkeypatch, student, pack, seen):
    rigged(monkeypatch, seen,
           lambda s: uniform_over_ink(s.points, s.length, s.norm.shape, STRIDE, report.BLUR))
    rows = report.report(student, pack, range(len(pack)), CONFIG.view, n_boot=50)
    assert values(rows, "ratio").keys() <= set(CLASSES)
    np.testing.assert_allclose(list(values(rows, "ratio").values()), 1, atol=1e-6)
    assert values(rows, "on_ink")[""] == pytest.approx(1)
    assert 0.5 < values(rows, "in_ink")[""] < 1  # the blur puts some of it beside the ink


def test_a_class_is_ahead_only_where_its_ratio_is_above_one():
    """A map uniform over ink may lead every control that lies beside the ink, and
    prefers nothing.
    """
    ratio = pd.DataFrame([("mask-match", part, value, value - 0.1, value + 0.1, n)
                          for part, value, n in (("operators", 1.2, 300), ("nested", 1.0, 300),
                                                 ("digits", 0.8, 300), ("deep", 1.5, 3))],
                         columns=["arm", "part", "value", "low", "high", "n"])
    lead = ratio.assign(arm="flat", value=0.5, low=0.4, high=0.6)
    leads = report.leads(ratio, lead)
    assert set(leads.arm) == {"flat", "uniform over ink"}
    own = leads[leads.arm == "uniform over ink"].set_index("part")
    assert own.low.round(6).tolist() == [0.1, -0.1, -0.3, 0.4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "recorded", {"ratio": ratio, "lead": lead}.get)
        assert report.conclusion() == {"ahead of every control": ["operators"],
                                       "behind a control": ["digits"],
                                       "not told apart from a control": ["nested"],
                                       "too few to say": ["deep"]}


def test_a_map_on_operators_leads_every_control_there_and_only_there(
    monkeypatch, student, pack, seen
):
    def on_operators(s):
        member = s.member[CLASSES.index("operators")]
        heat = np.full(s.norm.shape, 1e-3)
        if member.any():
            heat += uniform_over_ink(s.points[member], s.length[member], s.norm.shape, STRIDE)
        return heat

    rigged(monkeypatch, seen, on_operators)
    rows = report.report(student, pack, range(len(pack)), CONFIG.view, n_boot=50)
    assert values(rows, "ratio")["operators"] > 2
    assert values(rows, "ratio")["digits and letters"] < 0.8
    for control in ("untrained", "encoder-norm", "position-only", "flat", "shuffled"):
        lead = values(rows, "lead", control)
        assert lead["operators"] > 0.5
        assert lead["digits and letters"] < 0
        here, there = values(rows, "ratio"), values(rows, "ratio", control)
        assert lead["operators"] == pytest.approx(here["operators"] - there["operators"])
    assert values(rows, "overlap")[""] == pytest.approx(1)  # the k maps are all alike
    assert all(row["low"] <= row["value"] + 1e-9 and row["value"] <= row["high"] + 1e-9
               for row in rows if row["metric"] in ("on_ink", "entropy", "overlap"))


def test_the_best_map_is_chosen_on_other_ink_and_measured_here(monkeypatch, student, pack, seen):
    """One map of all lies on operators: their mean hardly prefers them, that map does."""
    def rig(expressions):
        made = []
        for s in expressions:
            maps = np.ones((TINY.maps, *s.norm.shape))
            member = s.member[CLASSES.index("operators")]
            if member.any():
                maps[1] = 1e-3 + uniform_over_ink(s.points[member], s.length[member], s.norm.shape,
                                                  STRIDE)
            made.append(replace(s, maps=maps / maps.sum((1, 2), keepdims=True)))
        return made

    half = len(seen) // 2
    answers = iter([rig(seen[:half]), seen[:half], rig(seen[half:]), seen[half:]])
    monkeypatch.setattr(report, "see", lambda *_: next(answers))
    rows = report.report(student, pack, range(half), CONFIG.view, n_boot=50,
                         choose=range(half, len(seen)))
    mean, best = values(rows, "ratio")["operators"], values(rows, "map_ratio")["operators"]
    assert best > 1.5 * mean
    for control in ("untrained", "position-only", "flat", "shuffled"):
        assert values(rows, "map_lead", control)["operators"] > 0


def test_a_map_of_position_alone_is_found_out(monkeypatch, student, pack, seen):
    def stripe(s):
        """Dark at the left end of the canvas, bright at the right: smooth, so that stretching it
        loses nothing.
        """
        h, w = s.norm.shape
        return np.tile((np.arange(w) + 0.5) / w, (h, 1))

    rigged(monkeypatch, [s for s in seen if s.norm.shape[1] > 8], stripe)
    wide = [s.index for s in seen if s.norm.shape[1] > 8]
    rows = report.report(student, pack, wide, CONFIG.view, n_boot=50)
    assert values(rows, "positional")[""] > 0.95
    lead = values(rows, "lead", "position-only")
    np.testing.assert_allclose(list(lead.values()), 0, atol=0.1)


def test_a_view_is_drawn_without_what_its_crop_left_out(pack):
    ink = collate([from_pack(pack, i) for i in range(4)]).ink
    view = make_view(ink, CONFIG.view, torch.Generator().manual_seed(1))
    assert not view.kept.all()
    for which in range(4):
        drawn = view_ink(view, ink, which)
        assert len(drawn.points) == int((view.kept & (ink.owner == which)).sum())
        assert set(drawn.stroke) == set(range(drawn.stroke[-1] + 1))
        assert (drawn.points >= CONFIG.view.margin - 1e-3).all()


def test_shuffled_keeps_what_lies_on_ink(seen):
    arms = report.arms(seen, seen)
    for ours, control, s in zip(arms[report.OURS], arms["shuffled"], seen, strict=True):
        cells = np.zeros(s.norm.shape, bool)
        column, row = (s.points // STRIDE).astype(int).T
        cells[row, column] = True
        assert control[cells].sum() == pytest.approx(ours[cells].sum())
        np.testing.assert_array_equal(control[~cells], ours[~cells])


def test_untrained_weights_have_the_same_shape_and_leave_the_global_generator_alone(student):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    other = report.untrained(student, seed=4)
    assert torch.equal(torch.rand(3), wanted)
    assert {k: v.shape for k, v in other.state_dict().items()} == {
        k: v.shape for k, v in student.state_dict().items()
    }
    assert not torch.equal(other.attention.logits.weight, student.attention.logits.weight)


def test_a_finished_run_is_loaded_and_recorded(tmp_path, monkeypatch, student, pack):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    first = Run.open("pretrain", "smoke", {"seed": 0, "dataset": "synthetic"}, {})
    with first.lock():
        first.finish(pictures=50)
    run = Run.open("attend", "smoke", CONFIG, {"data": "toy", "init": first.name})
    with run.lock():
        run.save_weights({k: v.half() for k, v in student.state_dict().items()},
                         {"config": run.config})
        run.finish(pictures=100)
    loaded, view = report.network_of(*run.load_weights())
    assert view == CONFIG.view
    torch.testing.assert_close(loaded.attention.logits.weight, student.attention.logits.weight,
                               atol=1e-3, rtol=0)
    rows = report.report(loaded, pack, range(len(pack)), view, n_boot=50)
    report.record(run, rows, "synthetic")
    table = records.load()
    assert len(table) == 3 * len(rows)
    assert set(table["pictures"]) == {300}  # two views of 50 and of 100
    kept = report.recorded("ratio", "synthetic", profile="smoke").set_index(["arm", "part"])
    for r in rows:
        if r["metric"] == "ratio":
            assert kept.loc[r["arm"], r["part"]].tolist() == pytest.approx(
                [r["value"], r["low"], r["high"], r["n"]]
            )
    assert len(kept) == sum(r["metric"] == "ratio" for r in rows)
    assert report.recorded("ratio").empty  # nothing of CROHME here
    row = table[
        (table["metric"] == "attention_ratio_low:operators") & (table["arm"] == report.OURS)
    ]
    assert row["value"].tolist() == pytest.approx(
        [
            r["low"]
            for r in rows
            if (r["arm"], r["metric"], r["part"]) == (report.OURS, "ratio", "operators")
        ]
    )


def test_the_command_line_measures_a_finished_stage_2(tmp_path, monkeypatch, student, small_data,
                                                      capsys):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    run = Run.open("attend", "smoke", CONFIG, {"data": "toy", "init": "none"})
    with run.lock():
        run.save_weights({k: v.half() for k, v in student.state_dict().items()},
                         {"config": run.config})
        run.finish(pictures=100)
    with small_data(60, 10):
        assert cli.main(["attention", str(run.folder), "--dataset", "synthetic"]) == 0
        assert records.load().empty
        assert cli.main(["attention", str(run.folder), "--dataset", "synthetic", "--record"]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert len(lines) * 3 == 2 * len(records.load())
    assert [report.OURS, "ratio"] in lines


def test_ink_without_aligned_symbols_is_refused(student, make_pack, make_ink):
    from dataclasses import replace

    pack = make_pack([replace(make_ink("x+1", "a"), token_symbols=None)])
    with pytest.raises(ValueError, match="aligned"):
        report.report(student, pack, [0], CONFIG.view)
