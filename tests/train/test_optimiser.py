"""Muon: its step against a slow reference by singular value decomposition, and AdamW's for
everything else.
"""

import copy

import pytest
import torch
from torch import nn

from mmlib.models.recogniser import Recogniser
from mmlib.train import optimiser
from mmlib.train.optimiser import (
    COEFFICIENTS,
    Muon,
    OptimConfig,
    _iterated,
    optimizer,
    orthogonalised,
)
from mmlib.train.profiles import TINY


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """As on a device without bfloat16; the test that is about bfloat16 says so."""
    monkeypatch.setattr(optimiser, "native_bfloat16", lambda device: False)


def by_svd(matrix, iterations=5):
    """The same polynomial on the singular values, one by one."""
    u, s, v = torch.linalg.svd(matrix.double() / matrix.double().norm(), full_matrices=False)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ v


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 4, 30), (2, 30, 4), (1, 1, 7)])
def test_orthogonalised_keeps_the_singular_vectors(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    found = orthogonalised(matrices)
    for one, result in zip(matrices, found):
        torch.testing.assert_close(result.double(), by_svd(one), atol=2e-4, rtol=0)


@pytest.mark.parametrize("shape", [(3, 96, 96), (2, 24, 300), (2, 300, 24)])
def test_in_bfloat16_the_singular_vectors_are_kept_too(monkeypatch, shape):
    """Even of ill-conditioned matrices, whose Gram matrix's rounded powers would drift apart."""
    monkeypatch.setattr(optimiser, "native_bfloat16", lambda device: True)
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * torch.logspace(
        0, -3, shape[-1]
    )
    found = orthogonalised(matrices)
    assert found.dtype == torch.float32
    for one, result in zip(matrices, found):
        assert (result - by_svd(one)).norm() < 0.03 * by_svd(one).norm()


def test_doubles_stay_doubles():
    matrices = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(4)).double()
    found = orthogonalised(matrices)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found[0], by_svd(matrices[0]), atol=1e-9, rtol=0)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 4, 3, 3)])
def test_a_step_moves_each_weight_of_a_shape_by_its_own_orthogonalised_momentum(
    monkeypatch, native, shape
):
    monkeypatch.setattr(optimiser, "native_bfloat16", lambda device: native)
    rng = torch.Generator().manual_seed(6)
    weights = [nn.Parameter(torch.randn(shape, generator=rng)) for _ in range(3)]
    if len(shape) == 4:
        weights = [nn.Parameter(w.detach().contiguous(memory_format=torch.channels_last))
                   for w in weights]
    optim = Muon([{"params": weights, "weight_decay": 0.1, "muon": True}], lr=0.05, momentum=0.9)
    before = [w.detach().clone() for w in weights]
    expected, moments = [w.clone() for w in before], [torch.zeros(shape) for _ in weights]
    for step in range(3):
        for k, weight in enumerate(weights):
            weight.grad = None
            if k == 1 and step == 1:  # no gradient: neither weight nor momentum moves
                continue
            weight.grad = torch.randn(shape, generator=rng)
            moments[k] = 0.9 * moments[k] + 0.1 * weight.grad
            ahead = (0.1 * weight.grad + 0.9 * moments[k]).flatten(1)
            update = by_svd(ahead).view(shape).float()
            expected[k] = expected[k] * (1 - 0.05
                                         * 0.1) - 0.05 * 0.2 * max(ahead.shape) ** 0.5 * update
        optim.step()
    for weight, wanted, start in zip(weights, expected, before, strict=True):
        assert (weight.detach() - wanted).norm() < (0.03 if native
                                                    else 1e-3) * (wanted - start).norm()


def test_three_iterations_may_share_a_gram_matrix_in_bfloat16_and_five_may_not():
    """Of matrices whose singular values fall to a hundredth."""
    rng = torch.Generator().manual_seed(5)
    u, _, v = torch.linalg.svd(torch.randn(2, 48, 160, generator=rng), full_matrices=False)
    matrices = u * torch.logspace(0, -2, 48) @ v
    exact = torch.stack([by_svd(one) for one in matrices])
    start = (matrices / matrices.norm(dim=(1, 2), keepdim=True)).bfloat16()

    def error(*parts):
        found = start
        for iterations in parts:
            found = _iterated(found, iterations)
        return float((found - exact).norm() / exact.norm())

    assert error(1, 1, 1, 1, 1) < 0.05
    assert error(3, 2) < 0.05
    assert error(5) > 0.2


def test_singular_values_of_well_conditioned_matrices_come_near_one():
    found = torch.linalg.svdvals(
        orthogonalised(torch.randn(4, 20, 50, generator=torch.Generator().manual_seed(1)))
    )
    assert found.min() > 0.6
    assert found.max() < 1.25


def test_scale_does_not_matter_and_zero_stays_zero():
    x = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(orthogonalised(x), orthogonalised(1_000 * x), atol=1e-5, rtol=0)
    assert orthogonalised(torch.zeros(1, 3, 4)).abs().max() == 0
    torch.testing.assert_close(orthogonalised(x, 0), x / x.norm(dim=(1, 2), keepdim=True))


def test_a_step_by_hand():
    """Two steps of one convolution: momentum, Nesterov, decay, and the update's size."""
    conv = nn.Conv2d(2, 3, 2, bias=False)
    weight = conv.weight.detach().clone()
    optim = Muon([{"params": [conv.weight], "weight_decay": 0.1, "muon": True}], lr=0.01,
                 momentum=0.9)
    moment = torch.zeros_like(weight)
    for number in range(2):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        conv.weight.grad = gradient.clone()
        optim.step()
        moment = 0.9 * moment + 0.1 * gradient
        ahead = 0.1 * gradient + 0.9 * moment
        update = by_svd(ahead.flatten(1)).float().view(weight.shape)
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 8**0.5 * update
        torch.testing.assert_close(conv.weight.detach(), weight, atol=1e-5, rtol=0)


def test_the_rest_takes_adamw_s_step():
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    inner, other = nn.Linear(4, 4, bias=False), copy.deepcopy(ours)
    optim = Muon([{"params": inner.parameters(), "muon": True}, {"params": ours.parameters()}],
                 lr=0.1, weight_decay=0.02)
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.02)
    for number in range(3):
        for model in (ours, theirs):
            model.zero_grad()
            model(torch.full((1, 3), float(number + 1))).square().sum().backward()
        inner.weight.grad = torch.ones(4, 4)
        optim.step()
        plain.step()
    assert not torch.equal(ours.weight, other.weight)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_hidden_weights_take_muon_s_step_and_ends_vectors_and_scalars_do_not():
    model = Recogniser(20, TINY)
    names = {id(p): name for name, p in model.named_parameters()}
    kinds = {names[id(p)]: g["muon"] for g in optimizer([model], OptimConfig()).param_groups
             for p in g["params"]}
    assert set(kinds) == set(names.values())
    assert kinds["encoder.down.0.weight"]
    assert kinds["decoder.layers.0.qkv.weight"]
    assert kinds["attention.hidden.weight"]
    for name in ("decoder.embed.weight", "decoder.logits.weight", "attention.logits.weight",
                 "symbols.weight", "scalars.slot_position", "encoder.norm.weight",
                 "encoder.out.bias"):
        assert not kinds[name]
    plain = optimizer([model], OptimConfig(muon=False)).param_groups
    assert not any(g["muon"] for g in plain)
    assert sum(len(g["params"]) for g in plain) == len(names)


def test_a_quadratic_is_solved_and_the_state_travels():
    def problem():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 1))
        return model, optimizer([model], OptimConfig(lr=0.02))

    def steps(model, optim, count):
        for _ in range(count):
            loss = (model(torch.eye(6)) - torch.arange(6.0)[:, None]).square().mean()
            optim.zero_grad()
            loss.backward()
            optim.step()
        return loss.item()

    model, optim = problem()
    first, last = steps(model, optim, 1), steps(model, optim, 299)
    assert last < first / 50
    one, two = problem(), problem()
    steps(*one, 5)
    two[0].load_state_dict(one[0].state_dict())
    two[1].load_state_dict(copy.deepcopy(one[1].state_dict()))
    assert steps(*one, 5) == steps(*two, 5)
    assert torch.equal(one[0][0].weight, two[0][0].weight)
