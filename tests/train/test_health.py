"""Signs of collapse: what they are computed from, and where they are given."""

import pytest
import torch

from mmlib.train.attend import Attend
from mmlib.train.health import (
    EARLY,
    SIGNS,
    collapsed,
    failed_gates,
    moved,
    on_grid,
    positional,
    weights_of,
)


def test_each_sign_is_given_beyond_its_limit_only():
    for name, limit, side, what in SIGNS:
        beyond, within = (limit + 5e-4, limit - 5e-4)[:: 1 if side == "below" else -1]
        (said,) = collapsed({name: beyond, "other": 1.0}, EARLY)
        assert what in said
        assert name in said
        assert f"{beyond:.4g}" in said
        assert collapsed({name: within}, EARLY) == []
        assert collapsed({name: beyond}, EARLY - 1) == []
    assert collapsed({"ter": 1.0}, EARLY) == []


def test_maps_on_the_common_grid_know_only_their_own_canvas():
    valid = torch.zeros(2, 1, 6, 20)
    valid[0, 0, :4, :16] = 1
    valid[1, 0, :6, :8] = 1
    maps = valid / valid.sum((2, 3), keepdim=True)
    found = on_grid(maps, valid, (2, 4))
    assert torch.allclose(found, torch.full((2, 1, 2, 4), 1 / 8))
    maps = torch.zeros(2, 1, 6, 20)
    maps[0, 0, 3, 15] = maps[1, 0, 5, 7] = 1  # each in its own lower right corner
    found = on_grid(maps, valid, (2, 4))
    assert torch.equal(found[..., 1, 3], torch.ones(2, 1))


def test_positional_tells_constant_positional_and_free_maps_apart():
    generator = torch.Generator().manual_seed(0)
    constant = torch.full((64, 3, 4, 8), 1 / 32)
    assert positional([constant]) == 0
    stripes = torch.zeros(64, 3, 4, 8)
    for k in range(3):
        stripes[:, k, :, 2 * k : 2 * k + 2] = 1 / 8
    assert positional([stripes[:40], stripes[40:]]) == pytest.approx(1)
    free = torch.zeros(64, 3, 32)
    free.scatter_(2, torch.randint(32, (64, 3, 1), generator=generator), 1.0)
    free = free.view(64, 3, 4, 8)
    assert positional([free]) < 0.05
    half = (stripes + free) / 2
    assert 0.05 < positional([half]) < 0.9


def test_each_gate_is_named_where_it_fails():
    for gate in Attend.gates:
        name, limit, side, what = gate
        sign = 1 if side == "above" else -1
        assert failed_gates([gate], {name: limit + sign * 1e-3}) == []
        (said,) = failed_gates([gate], {name: limit - sign * 1e-3})
        assert what in said
        assert name in said
    assert failed_gates(Attend.gates, {"ter": 1.0}) == []


def test_how_far_weights_moved():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[3.0, 0], [0, 4]]))
        module[1].weight.copy_(torch.tensor([[0.0, 12]]))
    before = weights_of(module)
    assert set(before) == {"0.weight", "1.weight"}
    assert moved(before, module) == 0
    with torch.no_grad():
        module[0].weight.add_(torch.tensor([[0.0, 0.5], [0, 0]]))
        module[0].bias.add_(9)
    assert moved(before, module) == pytest.approx(0.5 / 13)
