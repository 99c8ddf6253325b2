"""Benchmarks: what is timed and counted is what ran, and nothing of it stays."""

import os

import numpy as np
import pytest
import torch

from mmlib import benchmark, cli
from mmlib.data.batches import Feed
from mmlib.stages import pretrain


def test_the_command_line_knows_the_sections():
    assert tuple(benchmark.SECTIONS) == cli.BENCHMARKS


def test_calls_take_turns_and_the_first_round_does_not_count():
    called = []
    times = benchmark.seconds({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3)
    assert called == ["a", "b"] * 4
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}


def test_a_row_is_median_and_quartiles():
    row = benchmark.row("x", [4, 1, 2, 3, 5], "s", beam=5)
    assert (row["low"], row["median"], row["high"], row["n"], row["beam"]) == (2, 3, 4, 5, 5)
    assert "3 [2, 4] s (n = 5)" in benchmark.lines({"rows": [row]})[0]


def test_traffic_is_what_is_read_and_written():
    a, b = torch.rand(10, 20), torch.rand(20, 30)
    with benchmark.Traffic() as moved:
        (a @ b).view(-1)
    assert moved.bytes == 4 * (10 * 20 + 20 * 30 + 10 * 30)


@pytest.mark.slow
def test_a_stage_is_timed_step_by_step(tmp_path, tmp_path_factory, monkeypatch):
    """Paused after so many steps, or at the end of its budget; its feed is the library's again, and its results are not kept."""
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    monkeypatch.setattr("mmlib.data.corpus.SYNTHETIC", {"train": (80, 1), "test": (6, 2)})
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path_factory.mktemp("packs")))
    config = pretrain.Config.preset("smoke", batch_area=150.0, batch_most=4, pictures=8, eval_pictures=8)
    ended = benchmark.trained("pretrain", config, 100)
    assert ended[:, 2].sum() >= 8
    paused = benchmark.trained("pretrain", config, 1)
    assert len(paused) == 1
    for times in (ended, paused):
        assert (times[:, 0] > times[:, 1]).all()
        assert (times[:, 1] >= 0).all()
    assert np.isfinite(ended).all()
    assert pretrain.Feed is Feed
    assert os.environ["MMLIB_RESULTS"] == str(tmp_path)
    assert not list(tmp_path.iterdir())
