import math
import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import zeros

from mmlib.losses.contrast import (
    contrast_loss,
    local_info_nce,
    match_rate,
    nt_xent,
)
from mmlib.losses.rivals import byol_loss, mae_loss


def rows(n, d=6, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cos(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


def points(n=9, seed=0, dtype=torch.float32):
    """Features, owners and positions of n points of 3 expressions on a 6 x 6 grid."""
    g = torch.Generator().manual_seed(seed)
    owner = torch.arange(3).repeat_interleave(n // 3)
    position = [torch.rand(n, 2, generator=g) * 6 for _ in range(2)]
    return rows(n, seed=seed + 1, dtype=dtype), rows(n, seed=seed + 2,
                                                     dtype=dtype), owner, *position


# nt_xent


def slow_nt_xent(z1, z2, temperature):
    views, b, total = [*z1, *z2], len(z1), 0.0
    for i, anchor in enumerate(views):
        partner = (i + b) % (2 * b)
        others = [math.exp(cos(anchor, v) / temperature) for j, v in enumerate(views) if j != i]
        total -= math.log(math.exp(cos(anchor, views[partner]) / temperature) / sum(others))
    return total / (2 * b)


@pytest.mark.parametrize("b", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_equals_plain_loops(b, temperature):
    z1, z2 = rows(b, seed=1), rows(b, seed=2)
    assert float(nt_xent(z1, z2, temperature)) == pytest.approx(
        slow_nt_xent(z1, z2, temperature), abs=1e-5
    )


@pytest.mark.parametrize("b", [2, 5, 32])
def test_nt_xent_closed_forms(b):
    assert float(nt_xent(torch.ones(b, 4), torch.ones(b, 4))) == pytest.approx(
        math.log(2 * b - 1), abs=1e-5
    )
    apart = torch.eye(b)
    expected = -math.log(math.exp(2) / (math.exp(2) + 2 * b - 2))
    assert float(nt_xent(apart, apart, temperature=0.5)) == pytest.approx(expected, abs=1e-5)


def test_nt_xent_ignores_scale_order_rotation_and_which_view_is_first():
    z1, z2 = rows(6, seed=1), rows(6, seed=2)
    loss = nt_xent(z1, z2)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(rows(6, 6, seed=3)).Q
    for other in (
        nt_xent(z2, z1),
        nt_xent(z1[order], z2[order]),
        nt_xent(z1 * 3, z2 * 0.1),
        nt_xent(z1 @ turn, z2 @ turn),
    ):
        torch.testing.assert_close(other, loss)


def test_nt_xent_gradient():
    z1, z2 = (rows(4, 3, s, torch.float64).requires_grad_() for s in (1, 2))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (z1, z2))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("b", [2, 16])
def test_nt_xent_agrees_with_two_libraries(b, temperature):
    lightly = pytest.importorskip("lightly.loss")
    metric = pytest.importorskip("pytorch_metric_learning.losses")
    z1, z2 = rows(b, 12, 1), rows(b, 12, 2)
    ours = nt_xent(z1, z2, temperature)
    torch.testing.assert_close(ours, lightly.NTXentLoss(temperature)(z1, z2), atol=1e-5, rtol=0)
    theirs = metric.NTXentLoss(temperature)(torch.cat([z1, z2]), torch.arange(b).repeat(2))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


# local_info_nce


def slow_local(u1, u2, owner, position1, position2, radius, temperature):
    n, total = len(u1), 0.0
    for anchors, candidates, place in ((u1, u2, position1), (u2, u1, position2)):
        for i in range(n):
            positive = math.exp(cos(anchors[i], candidates[i]) / temperature)
            below = positive
            for j in range(n):
                near = (
                    owner[i] == owner[j]
                    and math.dist(place[i].tolist(), place[j].tolist()) <= radius
                )
                if j != i and not near:
                    below += math.exp(cos(anchors[i], candidates[j]) / temperature)
            total -= math.log(positive / below)
    return total / (2 * n)


@pytest.mark.parametrize("radius", [0.0, 2.0, 100.0])
def test_local_equals_plain_loops(radius):
    data = points()
    ours = local_info_nce(*data, radius, 0.3)
    assert float(ours) == pytest.approx(slow_local(*data, radius, 0.3), abs=1e-5)


def test_local_closed_forms():
    _, _, owner, position1, position2 = points()
    same = torch.ones(9, 4)
    # All alike: the anchor is one of as many as are left; all nine, or itself and the other
    # expressions' six.
    assert float(local_info_nce(same, same, owner, position1, position2, 0.0)) == pytest.approx(
        math.log(9), abs=1e-5
    )
    assert float(local_info_nce(same, same, owner, position1, position2, 99.0)) == pytest.approx(
        math.log(7), abs=1e-5
    )
    line = torch.stack(
        [torch.arange(9.0), zeros(9)], 1
    )  # one cell apart: a neighbour at the radius is left out
    expected = (2 * math.log(8) + 7 * math.log(7)) / 9
    assert float(local_info_nce(same, same, owner * 0, line, line, 1.0)) == pytest.approx(
        expected, abs=1e-5
    )
    alone = local_info_nce(rows(9, seed=1), rows(9, seed=2), owner * 0, position1, position2, 99.0)
    assert float(alone) == pytest.approx(0, abs=1e-6)


def test_local_ignores_scale_order_translation_and_which_view_is_first():
    u1, u2, owner, p1, p2 = points()
    loss = local_info_nce(u1, u2, owner, p1, p2, 2.0)
    o = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    for other in (
        local_info_nce(u2, u1, owner, p2, p1, 2.0),
        local_info_nce(u1[o], u2[o], owner[o], p1[o], p2[o], 2.0),
        local_info_nce(u1 * 7, u2 * 0.2, owner, p1 + 11, p2 - 4, 2.0),
    ):
        torch.testing.assert_close(other, loss)


def test_local_does_not_push_neighbours_apart():
    """Of two points of one expression within the radius, one's feature does not move the other's
    loss.
    """
    u1, u2, *_ = (x[:2] for x in points())
    owner, place = torch.zeros(2, dtype=torch.long), torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    u2.requires_grad_()

    def push(radius):
        loss = local_info_nce(u1, u2, owner, place, place, radius)
        return float(torch.autograd.grad(loss, u2)[0].abs().sum())

    assert push(radius=1.0) == 0
    assert push(radius=0.5) > 0


def test_local_gradient():
    u1, u2, *rest = points(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: local_info_nce(a, b, *rest, 1.5, 0.5),
                                    (u1.requires_grad_(), u2.requires_grad_()))


def test_local_agrees_with_a_library_where_it_can_say_the_same():
    metric = pytest.importorskip("pytorch_metric_learning.losses")
    u1, u2, _, p1, p2 = points()
    # two objects: given one, the library leaves out the diagonal
    own, ref = torch.arange(9), torch.arange(9)
    theirs = metric.NTXentLoss(0.2)
    expected = (
        theirs(u1, own, ref_emb=u2, ref_labels=ref) + theirs(u2, own, ref_emb=u1, ref_labels=ref)
    ) / 2
    torch.testing.assert_close(local_info_nce(u1, u2, own, p1, p2, 3.0), expected, atol=1e-5,
                               rtol=0)


def test_no_points_give_a_zero_that_has_a_gradient():
    u = torch.zeros(0, 4, requires_grad=True)
    loss = local_info_nce(u, u, torch.zeros(0, dtype=torch.long), torch.zeros(0, 2),
                          torch.zeros(0, 2), 1.0)
    loss.backward()
    assert loss.detach() == 0


@pytest.mark.parametrize("levels", [(), (2,)])
def test_a_batch_whose_views_share_no_ink_leaves_the_global_term(levels):
    z, none = torch.randn(2, 4), torch.zeros(0, 2)
    u = torch.zeros(*levels, 0, 4, requires_grad=True)
    total, parts = contrast_loss(z, z, u, u, torch.zeros(0, dtype=torch.long), none, none)
    total.backward()
    assert parts["local"] == 0
    assert total == 0.5 * parts["global"] > 0


# the rivals


def test_byol_equals_loops_and_lightly_and_spares_the_teacher():
    p, z = rows(5, seed=1).requires_grad_(), rows(5, seed=2).requires_grad_()
    loss = byol_loss(p, z)
    assert loss.item() == pytest.approx(sum(2 - 2 * cos(a, b) for a, b in zip(p, z)) / 5, abs=1e-5)
    lightly = pytest.importorskip("lightly.loss")
    torch.testing.assert_close(loss, 2 + 2 * lightly.NegativeCosineSimilarity()(p, z), atol=1e-5,
                               rtol=0)
    loss.backward()
    assert z.grad is None
    assert p.grad.abs().sum() > 0
    p = p.detach()
    assert float(byol_loss(p, p)) == pytest.approx(0, abs=1e-6)
    assert float(byol_loss(p, -2 * p)) == pytest.approx(4, abs=1e-5)


def test_byol_gradient():
    p, z = rows(3, 4, 1, torch.float64).requires_grad_(), rows(3, 4, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda x: byol_loss(x, z), (p,))


def test_mae_counts_masked_cells_only():
    g = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 3, 4, 5, generator=g), torch.randn(2, 3, 4, 5, generator=g)
    masked = torch.rand(2, 1, 4, 5, generator=g) > 0.6
    expected = [
        float(pred[b, c, i, j] - target[b, c, i, j]) ** 2
        for b in range(2) for c in range(3) for i in range(4) for j in range(5)
        if masked[b, 0, i, j]
    ]
    assert float(mae_loss(pred, target, masked)) == pytest.approx(
        sum(expected) / len(expected), abs=1e-5
    )
    assert float(mae_loss(target + 3, target, masked)) == pytest.approx(9, abs=1e-5)
    elsewhere = torch.where(masked, pred, pred + 100)
    torch.testing.assert_close(mae_loss(elsewhere, target, masked), mae_loss(pred, target, masked))
    assert float(mae_loss(pred, target, torch.zeros_like(masked))) == 0


def test_mae_gradient():
    pred = rows(2, 12, 1, torch.float64).view(2, 1, 3, 4).requires_grad_()
    masked = rows(2, 12, 2).view(2, 1, 3, 4) > 0
    assert torch.autograd.gradcheck(lambda x: mae_loss(x, torch.zeros_like(x), masked), (pred,))


def test_match_rate():
    z = torch.eye(4)
    assert float(match_rate(z, z)) == 1
    assert float(match_rate(z, z[[1, 0, 2, 3]])) == 0.5


# balance, precision, shapes


def test_the_terms_are_balanced():
    z1, z2 = rows(3, seed=7), rows(3, seed=8)
    data = points()
    g, l = nt_xent(z1, z2, 0.3), local_info_nce(*data, 1.5, 0.4)
    for balance, names in ((1.0, {"global"}), (0.0, {"local"}), (0.3, {"global", "local"})):
        total, parts = contrast_loss(z1, z2, *data, balance, 0.3, 0.4, 1.5)
        torch.testing.assert_close(total, balance * g + (1 - balance) * l)
        assert set(parts) == names
        assert not any(part.requires_grad for part in parts.values())
    with pytest.raises(ValueError, match=r"balance is 1\.5"):
        contrast_loss(z1, z2, *data, 1.5)


def test_bfloat16_is_computed_in_float32():
    z1, z2 = rows(16, 32, 1).bfloat16(), rows(16, 32, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1, z2, 0.05)
        loss32 = nt_xent(z1.float(), z2.float(), 0.05)
    assert loss.dtype == torch.float32
    expected = nt_xent(z1.float(), z2.float(), 0.05)
    assert torch.equal(loss, expected)
    assert torch.equal(loss32, expected)


@pytest.mark.parametrize(("loss", "arguments", "message"),
                         [(nt_xent, [zeros(3, 4), zeros(2, 4)],
                           r"z2 has shape \(2, 4\), expected \(b, d\) with b=3, d=4"),
                          (nt_xent, [zeros(3), zeros(3)],
                           r"z1 has shape \(3,\), expected \(b, d\)"),
                          (local_info_nce, [*points()[:2], zeros(4), *points()[3:], 1.0],
                           r"owner has shape \(4,\), .* with n=9"),
                          (local_info_nce, [*points()[:4], zeros(9, 3), 1.0],
                           r"position2 has shape \(9, 3\), expected \(n, 2\)"),
                          (byol_loss, [zeros(2, 3), zeros(2, 4)],
                           r"z has shape \(2, 4\), expected \(n, d\)"),
                          (mae_loss, [*zeros(2, 1, 1, 4, 4), zeros(1, 2, 4, 4)],
                           r"masked has shape \(1, 2, 4, 4\)"),
                          (match_rate, [zeros(2, 3), zeros(3, 3)], r"z2 has shape \(3, 3\)")])
def test_wrong_shapes_are_named(loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        loss(*arguments)


# several processes

SHARES = (slice(0, 3), slice(3, 8))  # unequal: batches are filled by area


def joint_batch():
    x1, x2 = rows(8, 5, 1, torch.float64), rows(8, 5, 2, torch.float64)
    return x1, x2, torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]), rows(8, 2, 3), rows(8, 2, 4)


def losses_and_gradient(part, gather):
    """Both losses on a part of the joint batch, and the gradient of their sum on a shared layer."""
    x1, x2, owner, p1, p2 = (t[part] for t in joint_batch())
    owner = owner - owner[0]
    layer = rows(5, 4, 9, torch.float64).requires_grad_()
    losses = (
        nt_xent(x1 @ layer, x2 @ layer, 0.3, gather),
        local_info_nce(x1 @ layer, x2 @ layer, owner, p1, p2, 1.0, 0.3, gather=gather),
    )
    sum(losses).backward()
    return torch.cat([torch.stack(losses).detach(), layer.grad.flatten()])


def on_one_process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
                            timeout=timedelta(seconds=60))
    result = losses_and_gradient(SHARES[rank], gather=True)
    dist.all_reduce(result)
    if rank == 0:
        torch.save(result / 2, f"{folder}/mean")
    dist.barrier()
    os._exit(0)  # at a usual exit gloo's threads now and then abort the process


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_give_the_gradient_of_the_joint_batch(tmp_path):
    mp.spawn(on_one_process, (str(tmp_path),), nprocs=2)
    torch.testing.assert_close(
        torch.load(tmp_path / "mean"), losses_and_gradient(slice(0, 8), False), atol=1e-5, rtol=0
    )


def test_gather_in_a_single_process_changes_nothing():
    torch.testing.assert_close(
        losses_and_gradient(slice(0, 8), True), losses_and_gradient(slice(0, 8), False)
    )
