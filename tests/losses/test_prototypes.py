"""Prototypes: balanced assignments and the loss of naming them."""

import math

import pytest
import torch

from mmlib.losses.prototypes import Prototypes, naming_loss, sinkhorn


def slow_sinkhorn(scores, sharpness, rounds):
    n, k = scores.shape
    q = [[math.exp(float(s) * sharpness) for s in row] for row in scores]
    for _ in range(rounds):
        for j in range(k):
            total = sum(q[i][j] for i in range(n))
            for i in range(n):
                q[i][j] /= total * k
        for i in range(n):
            total = sum(q[i])
            for j in range(k):
                q[i][j] /= total * n
    return torch.tensor(q) * n


def test_sinkhorn_equals_plain_loops():
    scores = torch.rand(7, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.allclose(sinkhorn(scores, 5.0, 3), slow_sinkhorn(scores, 5.0, 3), atol=1e-5)


def test_assignments_are_balanced():
    scores = torch.rand(600, 6, generator=torch.Generator().manual_seed(1)) * 0.1
    scores[:, 0] += 0.5  # by similarity alone, every unit would take the first prototype
    found = sinkhorn(scores, 20.0, 50)
    assert torch.allclose(found.sum(1), torch.ones(600), atol=1e-4)
    assert torch.allclose(found.sum(0), torch.full((6,), 100.0), rtol=0.02)


def test_no_units_have_no_assignments():
    assert sinkhorn(torch.zeros(0, 4)).shape == (0, 4)
    assert float(naming_loss(torch.zeros(0, 4), torch.zeros(0, 4))) == 0


def test_naming_is_cross_entropy_and_a_constant_answer_costs_log_k():
    scores, assigned = torch.randn(5, 8), torch.eye(8)[:5]
    expected = torch.nn.functional.cross_entropy(scores / 0.1, torch.arange(5))
    assert float(naming_loss(scores, assigned)) == pytest.approx(float(expected), rel=1e-5)
    assert float(naming_loss(torch.zeros(5, 8), assigned)) == pytest.approx(math.log(8), rel=1e-5)


def test_the_teachers_side_gets_no_gradient():
    prototypes, units = Prototypes(6, 4, 10), torch.randn(3, 6, requires_grad=True)
    assert not prototypes.assign(units).requires_grad
    naming_loss(prototypes.scores(units), prototypes.assign(units.detach())).backward()
    assert units.grad is not None
    assert prototypes.directions.grad is not None


def test_the_queue_remembers_the_last_units():
    prototypes = Prototypes(2, 4, queue=5)
    for start in (0, 4, 8):
        prototypes.assign(torch.arange(start, start + 4).float()[:, None].expand(-1, 2))
    assert sorted(prototypes.queue[:, 0].tolist()) == [7, 8, 9, 10, 11]


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="assigned"):
        naming_loss(torch.zeros(3, 4), torch.zeros(2, 4))
