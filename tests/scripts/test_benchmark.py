"""Benchmarks: what is timed and counted is what ran, and nothing of it stays."""

import functools
import os

import numpy as np
import pytest
import torch

from mmlib.draw.views import View
from mmlib.store.files import project_root
from mmlib.train.contrast import ContrastObjective
from mmlib.train.loop import Paused
from mmlib.train.profiles import TINY, preset
from scripts import benchmark, rivals


def test_calls_take_turns_and_the_first_round_does_not_count():
    called = []
    times = benchmark.seconds({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3)
    assert called == ["a", "b"] * 4
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}


def test_a_row_is_median_and_quartiles():
    row = benchmark.row("x", [4, 1, 2, 3, 5], "s", beam=5)
    assert (row["low"], row["median"], row["high"], row["n"], row["beam"]) == (2, 3, 4, 5, 5)
    assert "3 [2, 4] s (n = 5)" in benchmark.lines([row])[0]


def test_traffic_is_what_is_read_and_written():
    a, b = torch.rand(10, 20), torch.rand(20, 30)
    with benchmark.Traffic() as moved:
        (a @ b).view(-1)
    assert moved.bytes == 4 * (10 * 20 + 20 * 30 + 10 * 30)


@pytest.mark.slow
def test_a_stage_is_timed_step_by_step(tmp_path, tmp_path_factory, monkeypatch):
    """Paused after so many steps, or at the end of its budget, and
    its results are not kept.
    """
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    monkeypatch.setattr("mmlib.data.corpus.SYNTHETIC", {"train": (80, 1), "test": (6, 2)})
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path_factory.mktemp("packs")))
    config = preset(
        "pretrain", "smoke", batch_area=150.0, batch_most=4, pictures=8, eval_pictures=8,
        eval_most=2,
    )
    ended = benchmark.timed(ContrastObjective, config, 100)
    assert ended[:, 2].sum() >= 8
    paused = benchmark.timed(ContrastObjective, config, 1)
    assert len(paused) == 1
    for times in (ended, paused):
        assert (times[:, 0] > times[:, 1]).all()
        assert (times[:, 1] >= 0).all()
    assert np.isfinite(ended).all()
    assert os.environ["MMLIB_RESULTS"] == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_rival_sees_the_same_picture_and_no_padding():
    torch.manual_seed(0)
    model = rivals.DenseNetRecogniser(40, TINY).eval()
    x, valid = torch.rand(1, 1, 24, 40), torch.ones(1, 1, 3, 5)
    with torch.no_grad():
        encoded = model.encode(x, valid)
        assert encoded.features.shape == (
            1,
            TINY.encoder.d,
            2,
            3,
        )  # stride 16, the last row and column kept
        assert encoded.attention is None
        wide = model.encode(torch.cat([x, x * 0], 3), torch.cat([valid, valid * 0], 3))
    assert wide.valid.flatten().tolist() == [1, 1, 1, 0, 0] * 2
    assert (wide.memory.bias.flatten() < 0).tolist() == [False, False, False, True, True] * 2


def test_ink_lies_on_the_cells_of_the_encoder_that_sees_it():
    """A view's points in the cells of a rival's map, half as many each way, the last row and column
    kept; in ours as they are.
    """
    points, valid = torch.tensor([[4.0, 4.0], [36.0, 20.0]]), torch.ones(1, 1, 3, 5)
    view = View(
        torch.zeros(1, 1, 24, 40),
        valid,
        points,
        torch.ones(2, dtype=torch.bool),
        torch.tensor([[40, 24]]),
    )
    assert torch.equal(rivals.on_cells(view, valid).cells, view.cells)
    coarse = rivals.on_cells(view, torch.ones(1, 1, 2, 3))
    assert coarse.valid.shape == (1, 1, 2, 3)
    assert coarse.cells.tolist() == [[0.25, 0.25], [2.25, 1.25]]


@pytest.fixture(scope="module")
def learned(small_data, tmp_path_factory):
    """What `benchmark.learning` says of all rivals, trained in small; its runs stay to be found."""
    train = functools.partial(rivals.train_rival, dataset="synthetic", model=TINY, symbol=14.0,
                              progress=False)
    with small_data(60, 10) as patch:
        patch.setenv("MMLIB_RESULTS", str(tmp_path_factory.mktemp("rivals")))
        patch.setattr(rivals, "train_rival", train)
        yield benchmark.learning(16)


@pytest.mark.slow
@pytest.mark.parametrize("side", [False, True], ids=rivals.TRAININGS)
@pytest.mark.parametrize("name", rivals.MODELS)
def test_rivals_are_trained_alike_and_go_on_where_they_stopped(
    name, side, tmp_path, learned, monkeypatch
):
    whole = rivals.train_rival(name, 16, side=side)  # as it was trained with the others
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    with pytest.raises(Paused, match="goes on from here"):
        rivals.train_rival(name, 16, side=side, max_steps=1)
    parts = rivals.train_rival(name, 16, side=side)
    assert parts.summary == whole.summary
    assert parts.folder != whole.folder
    assert 0 < whole.summary["loss"] < 2 * np.log(200)
    assert whole.summary["pictures"] >= 16
    assert parts.folder.parent.parent.name == "retrained"  # not among what is committed
    losses = [
        np.loadtxt(run.folder / rivals.LOSSES, delimiter=",", skiprows=1, usecols=(0, 1))
        for run in (whole, parts)
    ]
    assert np.array_equal(*losses)
    assert losses[0][:, 1].sum() / losses[0][:, 0].sum() == pytest.approx(
        whole.summary["loss"], rel=1e-5
    )
    assert len(losses[0]) == whole.summary["n"]


@pytest.mark.slow
def test_losses_of_rivals_are_compared_expression_by_expression(learned):
    """Each validation is a row; the difference is of the last ones, with an interval around it."""
    losses, differences = learned[:-4], learned[-4:]
    last = {(one["losses"], one["model"]): one["median"] for one in losses}
    assert len(set(last.values())) == len(last) == 6
    pairs = [
        (how, other) for how in rivals.TRAININGS for other in (rivals.DENSENET, rivals.LAYERED)
    ]
    for less, (how, other) in zip(differences, pairs, strict=True):
        assert less["what"].endswith(f"{rivals.OURS} minus {other}")
        assert less["losses"] == how
        assert less["median"] == pytest.approx(last[how, rivals.OURS] - last[how, other], abs=1e-4)
        assert less["low"] < less["median"] < less["high"]
        assert less["expressions"] == losses[-1]["expressions"] > 1
    assert len(losses) >= 4 * len(rivals.MODELS)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("", ", jemalloc"),
        ("dirty_decay_ms:-1", ", jemalloc"),
        (benchmark.KEEPING, ", jemalloc with slow decay"),
        ("narenas:1," + benchmark.KEEPING, ", jemalloc with slow decay"),
    ],
)
def test_measurements_are_told_apart_by_allocator(settings, name, monkeypatch):
    monkeypatch.setattr(benchmark, "hardware", lambda: "a CPU")
    monkeypatch.setattr(
        benchmark.Path, "read_text", lambda path: "7f00 /usr/lib/libjemalloc.so.2\n"
    )
    monkeypatch.setenv("MALLOC_CONF", settings)
    assert benchmark.machine() == "a CPU" + name


def test_the_page_on_speed_names_the_settings_that_are_measured():
    assert f"MALLOC_CONF={benchmark.KEEPING} " in (project_root() / "docs" / "speed.md").read_text()
    assert f"MALLOC_CONF={benchmark.KEEPING} " in (benchmark.__doc__ or "")
