"""Batches: every expression once, no more than the area, and the same again after a resume."""

import multiprocessing
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from mmlib.data.augment import AugmentConfig, Augmenter
from mmlib.data.batches import Feed, batches_by_area
from mmlib.data.errors import DataError
from mmlib.data.pack import Pack, normalised, write_pack
from mmlib.data.sample import from_pack
from mmlib.synthetic.compose import synthetic_ink

LEVERS = AugmentConfig(symbol=0.2, subexpression=0.2, join=0.1, swap_hand=0.2, relabel=0.3)


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("batches") / "toy.safetensors"
    write_pack([normalised(ink) for ink in synthetic_ink(60, 3)], path)
    return Pack.open(path)


def sizes_of(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.exp(rng.normal([1.5, 0.3], [0.8, 0.4], (n, 2)))


# --- grouping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("area", "most"), [(40.0, 8), (400.0, 1000), (1.0, 8), (1e9, 3)])
def test_every_expression_once_within_area_and_number(area, most, shuffled):
    sizes = sizes_of(500)
    groups = batches_by_area(sizes, area, most, np.random.default_rng(0) if shuffled else None)
    assert sorted(np.concatenate(groups).tolist()) == list(range(500))
    for group in groups:
        assert 0 < len(group) <= most
        width, height = sizes[group].max(0)
        assert width * height * len(group) <= area or len(group) == 1


def test_companions_are_alike():
    sizes = sizes_of(2_000)
    groups = batches_by_area(sizes, 200.0, 64, np.random.default_rng(0))
    paper = sum(len(g) * np.prod(sizes[g].max(0)) for g in groups)
    assert np.prod(sizes, 1).sum() / paper > 0.6  # more expression than padding
    at_random = np.array_split(np.random.default_rng(1).permutation(2_000), len(groups))
    assert paper < 0.3 * sum(len(g) * np.prod(sizes[g].max(0)) for g in at_random)


def test_a_generator_decides_the_batches():
    sizes = sizes_of(300)
    first, again, other = (batches_by_area(sizes, 60.0, 16, np.random.default_rng(s))
                           for s in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    # new companions, not new order alone
    assert {tuple(sorted(g)) for g in first} != {tuple(sorted(g)) for g in other}
    means = [sizes[g, 0].mean() for g in first]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5  # shuffled
    plain = batches_by_area(sizes, 60.0, 16)
    assert all(np.array_equal(a, b) for a, b in zip(plain, batches_by_area(sizes, 60.0, 16)))


def test_no_expressions_no_batches():
    assert batches_by_area(np.zeros((0, 2)), 10.0, 4) == []


# --- feeding --------------------------------------------------------------------------------------


def same(a, b):
    return (a.ink.b == b.ink.b
            and all(torch.equal(getattr(a.ink, f), getattr(b.ink, f))
                    for f in ("points", "stroke", "owner", "symbol"))
            and all(torch.equal(getattr(a, f), getattr(b, f))
                    for f in ("tokens", "token_symbols", "labels")))


def feed(pack, seed=0, count=None, config=LEVERS, **options):
    return Feed([(Augmenter(pack, np.arange(len(pack)), config), count)], 60.0, 8, seed, **options)


def who(pack, batch_or_samples):
    """Expressions by their ink: a plain sample's points are its pack's."""
    table = {from_pack(pack, i).points.tobytes(): i for i in range(len(pack))}
    return [table[s.points.tobytes()] for s in batch_or_samples]


def test_an_epoch_sees_every_expression_once(pack):
    for epoch in (0, 1):
        batches = feed(pack, config=AugmentConfig()).epoch(epoch)
        seen = [i for samples in batches for i in who(pack, samples)]
        assert sorted(seen) == list(range(len(pack)))


def test_epochs_and_seeds_differ_and_repeat(pack):
    draws = {key: feed(pack, seed=key[0]).epoch(key[1]) for key in ((0, 0), (0, 1), (1, 0))}
    again = feed(pack).epoch(0)
    flat = {key: np.concatenate([s.points for b in batches for s in b])
            for key, batches in draws.items()}
    np.testing.assert_array_equal(flat[0, 0], np.concatenate([s.points for b in again for s in b]))
    assert len({v.tobytes() for v in flat.values()}) == 3


def test_a_resumed_feed_goes_on_where_it_was(pack):
    whole = list(islice(feed(pack)(), 75))
    per_epoch = [len(feed(pack).epoch(e)) for e in range(3)]
    assert sum(per_epoch[:2]) < 75  # more than two epochs
    for start in (0, 1, per_epoch[0] - 1, per_epoch[0], per_epoch[0] + 3, sum(per_epoch[:2])):
        rest = islice(feed(pack)(start), 75 - start)
        for (count, batch), (other_count, other) in zip(whole[start:], rest, strict=True):
            assert count == other_count == batch.ink.b
            assert same(batch, other)


def test_a_source_can_give_a_part_or_go_round(pack):
    plain = AugmentConfig()
    part = [i for b in feed(pack, count=20, config=plain).epoch(0) for i in who(pack, b)]
    assert len(part) == len(set(part)) == 20
    other = [i for b in feed(pack, count=20, config=plain).epoch(1) for i in who(pack, b)]
    assert set(part) != set(other)
    rounds = Counter(i for b in feed(pack, count=150, config=plain).epoch(0) for i in who(pack, b))
    assert sum(rounds.values()) == 150
    assert set(rounds.values()) == {2, 3}


def test_a_second_round_draws_anew(pack):
    twice = feed(pack, count=2 * len(pack), config=AugmentConfig(symbol=0.9)).epoch(0)
    once = Counter(s.points.tobytes() for b in twice for s in b)
    assert len(once) > 1.3 * len(pack)


def test_two_sources_are_mixed(pack):
    half = len(pack) // 2
    sources = [(Augmenter(pack, np.arange(half), AugmentConfig()), None),
               (Augmenter(pack, np.arange(half, len(pack)), AugmentConfig()), 10)]
    batches = Feed(sources, 60.0, 8, 0).epoch(0)
    found = [who(pack, b) for b in batches]
    flat = [i for f in found for i in f]
    assert sum(i < half for i in flat) == half
    assert sum(i >= half for i in flat) == 10
    assert any(min(f) < half <= max(f) for f in found)


def test_long_formulas_are_left_out_of_training(pack):
    lengths = [len(from_pack(pack, i).tokens) for i in range(len(pack))]
    seen = [i for b in feed(pack, config=AugmentConfig(), longest=12).epoch(0)
            for i in who(pack, b)]
    assert sorted(seen) == [i for i, n in enumerate(lengths) if n <= 12]
    assert len(seen) < len(pack)


def test_processes_share_the_batches_and_count_all(pack):
    whole = list(islice(feed(pack)(), 40))
    shares = [list(islice(feed(pack, share=(rank, 2))(), 12)) for rank in (0, 1)]
    per_epoch = len(feed(pack).epoch(0))
    for step in range(min(per_epoch // 2, 12)):
        both = [whole[2 * step + rank] for rank in (0, 1)]
        for rank in (0, 1):
            count, batch = shares[rank][step]
            assert count == sum(c for c, _ in both)
            assert same(batch, both[rank][1])
    resumed = next(feed(pack, share=(1, 2))(3))
    assert same(resumed[1], shares[1][3][1])
    with pytest.raises(DataError, match="too few for 1000 processes"):
        next(feed(pack, share=(0, 1_000))())


def test_sizes_drawn_by_the_feed_fill_the_batches(pack):
    plain, scaled = (feed(pack, config=AugmentConfig(), scale=s) for s in (0.0, 0.3))
    native = {tuple(s.tokens.tolist()): np.ptp(s.points, axis=0).max() for b in plain.epoch(0)
              for s in b}
    factors = [np.ptp(s.points, axis=0).max() / native[tuple(s.tokens.tolist())]
               for b in scaled.epoch(0) for s in b
               if list(native).count(tuple(s.tokens.tolist())) == 1]
    assert np.exp(-0.31) < min(factors) < np.exp(-0.2)
    assert np.exp(0.2) < max(factors) < np.exp(0.31)
    for samples in scaled.epoch(0):
        sizes = np.array([np.ptp(s.points, axis=0) + 0.4 for s in samples])
        assert len(samples) == 1 or np.prod(sizes.max(0)) * len(samples) <= 60.0 * (1 + 1e-6)
    again = scaled.epoch(0)
    assert all(np.array_equal(a.points, b.points) for x, y in zip(scaled.epoch(0), again)
               for a, b in zip(x, y))


def test_workers_draw_the_same_and_stop(pack):
    plain = list(islice(feed(pack)(), 60))
    helped = feed(pack, workers=1)()
    assert len(feed(pack).epoch(0)) < 60  # more than one epoch
    for (count, batch), (other_count, other) in zip(plain, islice(helped, 60), strict=True):
        assert count == other_count
        assert same(batch, other)
    assert multiprocessing.active_children()
    helped.close()
    assert not multiprocessing.active_children()
