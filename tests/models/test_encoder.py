"""Encoder and attention network: a picture's features are its own, whatever stands beside or around
it.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmlib.models.attention import AttentionNetwork
from mmlib.models.encoder import ChannelNorm, Encoder
from mmlib.models.heads import pool
from mmlib.models.layers import dot_attention, ema_update, positions_2d
from mmlib.models.residual import BatchNorm
from mmlib.train.profiles import TINY

SIZES = [(5, 9), (3, 4), (2, 7)]  # cells high and wide: odd and even


def randomised(module, seed=0):
    """Every parameter random: branches that begin at zero take part. Batch norm has seen a small
    mean and variance.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if "running_" in name:
                buffer.copy_(0.1 * torch.rand(buffer.shape, generator=rng))
        for p in module.parameters():
            p.copy_(
                torch.randn(p.shape, generator=rng)
                * (0.5 / math.sqrt(max(p[0].numel(), 1)) if p.ndim > 1 else 0.3)
            )
    return module.eval()


RESIDUAL = replace(TINY.encoder, form="residual", coarse=1)


@pytest.fixture(scope="module", params=[TINY.encoder, RESIDUAL], ids=["patches", "residual"])
def encoder(request):
    return randomised(Encoder(request.param))


def pictures(channels=1, extra=(0, 0)):
    """One picture of each size, zero-padded to one canvas; and the mask of their cells."""
    h, w = (max(s[i] for s in SIZES) + extra[i] for i in (0, 1))
    x, valid = torch.zeros(len(SIZES), channels, 8 * h, 8 * w), torch.zeros(len(SIZES), 1, h, w)
    for e, (rows, columns) in enumerate(SIZES):
        rng = torch.Generator().manual_seed(e)
        x[e, :, : 8 * rows, : 8 * columns] = torch.rand(channels, 8 * rows, 8 * columns,
                                                        generator=rng)
        valid[e, :, :rows, :columns] = 1
    return x, valid


def test_features_do_not_depend_on_padding_or_companions(encoder):
    with torch.no_grad():
        together = encoder(*pictures())
        roomy = encoder(*pictures(extra=(3, 4)))
        for e, (h, w) in enumerate(SIZES):
            x, valid = pictures()
            alone = encoder(x[e : e + 1, :, : 8 * h, : 8 * w], valid[e : e + 1, :, :h, :w])[0]
            assert alone.std() > 0.1
            torch.testing.assert_close(together[e, :, :h, :w], alone, atol=1e-4, rtol=0)
            torch.testing.assert_close(roomy[e, :, :h, :w], alone, atol=1e-4, rtol=0)


def test_padding_is_zero(encoder):
    x, valid = pictures()
    with torch.no_grad():
        features = encoder(x, valid)
    assert features.shape == (3, TINY.encoder.d, 5, 9)
    assert (features * (1 - valid)).abs().max() == 0


def test_what_lies_on_padding_does_not_matter_to_the_context(encoder):
    """Beyond the cells that the convolutions reach, ink on padding changes nothing."""
    x, valid = pictures(extra=(0, 8))
    littered = x.clone()
    littered[:, :, :, 8 * 13 :] = 1  # at least four cells beyond every picture
    with torch.no_grad():
        torch.testing.assert_close(encoder(littered, valid), encoder(x, valid), atol=1e-4, rtol=0)


def test_no_mask_is_an_empty_mask(encoder):
    x, valid = pictures()
    with torch.no_grad():
        bare = encoder(x, valid)
        torch.testing.assert_close(encoder(torch.cat([x, torch.zeros_like(x)], 1), valid), bare)
        assert (encoder(torch.cat([x, torch.ones_like(x)], 1), valid) - bare).abs().max() > 0.01


def test_the_context_sees_far(encoder):
    """A cell's features feel ink at the other end of the picture, through the Transformer blocks
    alone.
    """
    x, valid = torch.zeros(1, 1, 16, 320), torch.ones(1, 1, 2, 40)
    far = x.clone()
    far[..., -8:] = 1
    with torch.no_grad():
        assert (encoder(far, valid) - encoder(x, valid))[..., 0].abs().max() > 1e-6
        blind = randomised(Encoder(type(TINY.encoder)(**{**vars(TINY.encoder), "context": 0})))
        assert (blind(far, valid) - blind(x, valid))[..., 0].abs().max() == 0


@pytest.mark.parametrize("bfloat16", [False, True])
def test_every_parameter_learns(encoder, bfloat16):
    encoder = copy.deepcopy(encoder).train()
    x, valid = pictures()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        features = encoder(x, valid)
    (features * torch.randn(features.shape,
                            generator=torch.Generator().manual_seed(0))).sum().backward()
    assert {name for name, p in encoder.named_parameters() if p.grad is None
            or not p.grad.abs().max() > 0} == set()


def test_wrong_sizes_are_named(encoder):
    with pytest.raises(ValueError, match="multiples of 8; got 12 x 16"):
        encoder(torch.zeros(1, 1, 12, 16), torch.ones(1, 1, 1, 2))
    with pytest.raises(ValueError, match=r"valid must be \(1, 1, 2, 2\)"):
        encoder(torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 2, 3))


def test_channel_norm_is_a_layer_norm_a_cell():
    x = torch.randn(2, 6, 3, 4)
    norm = randomised(ChannelNorm(6))
    cell = norm(x)[1, :, 2, 3]
    expected = (x[1, :, 2, 3] - x[1, :, 2, 3].mean()) / (
        x[1, :, 2, 3].var(unbiased=False) + norm.eps
    ).sqrt()
    torch.testing.assert_close(cell, expected * norm.weight + norm.bias)


def test_batch_norm_of_one_cell_takes_the_running_variance():
    norm = randomised(BatchNorm(3)).train()
    alone = torch.randn(1, 3, 1, 1)
    before = norm.running_var.clone()
    torch.testing.assert_close(norm(alone), norm.eval()(alone))
    assert torch.equal(norm.running_var, before)
    norm.train()(torch.randn(2, 3, 1, 1))
    assert not torch.equal(norm.running_var, before)


def test_a_moving_average_has_the_running_variance_too():
    old, new = BatchNorm(2), BatchNorm(2)
    new.running_var.fill_(3.0)
    new.num_batches_tracked += 5
    ema_update(old, new, 0.25)
    assert old.running_var.tolist() == [1.5, 1.5]
    assert old.num_batches_tracked == 0


@pytest.mark.parametrize(("change", "message"),
                         [({"form": "round"}, "form is 'patches', or 'residual'"),
                          ({"form": "residual", "strides": (2, 4)}, "with strides 4 and 2")])
def test_unknown_parts_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Encoder(replace(TINY.encoder, **change))


# --- attention network ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    return randomised(AttentionNetwork(TINY.encoder.d, maps=3, hidden=16), seed=1)


def test_maps_are_distributions_over_valid_cells(network):
    valid = pictures()[1]
    features = 10 * torch.randn(3, TINY.encoder.d, 5, 9, generator=torch.Generator().manual_seed(0))
    attention = network(features, valid)
    assert attention.maps.shape == (3, 3, 5, 9)
    assert (attention.maps >= 0).all()
    torch.testing.assert_close(attention.maps.sum((2, 3)), torch.ones(3, 3))
    assert (attention.maps * (1 - valid)).abs().max() == 0
    assert attention.maps[0].amax() > 2 / 45  # not uniform
    # Slots are what the maps pool, cell by cell.
    slots = sum(attention.maps[:, :, i, j, None] * features[:, None, :, i, j] for i in range(5)
                for j in range(9))
    torch.testing.assert_close(attention.slots, slots, atol=1e-4, rtol=1e-4)


def test_saliency_has_mean_one_over_valid_cells(network):
    valid = pictures()[1]
    attention = network(torch.randn(3, TINY.encoder.d, 5, 9), valid)
    mean = (attention.saliency * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))
    torch.testing.assert_close(mean, torch.ones(3))
    flat = network(torch.zeros(3, TINY.encoder.d, 5, 9), valid)
    torch.testing.assert_close(flat.saliency, valid)  # a uniform map scales nothing


def test_attention_does_not_depend_on_padding(network):
    x = torch.randn(1, TINY.encoder.d, 3, 4)
    alone = network(x, torch.ones(1, 1, 3, 4))
    wide = torch.nn.functional.pad(x, (0, 5, 0, 2))
    padded = network(wide, torch.nn.functional.pad(torch.ones(1, 1, 3, 4), (0, 5, 0, 2)))
    torch.testing.assert_close(padded.maps[..., :3, :4], alone.maps)
    torch.testing.assert_close(padded.saliency[..., :3, :4], alone.saliency)
    torch.testing.assert_close(padded.slots, alone.slots)


# --- small pieces ---------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_dot_attention_is_pytorchs(causal):
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=rng) for _ in range(3))
    bias = None if causal else torch.where(torch.rand(2, 1, 1, 5, generator=rng) < 0.4, -1e4, 0.0)
    expected = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
    torch.testing.assert_close(dot_attention(q, k, v, bias, causal), expected, atol=1e-5, rtol=1e-5)


def test_positions_tell_cells_apart_and_do_not_depend_on_the_grid():
    grid = positions_2d(7, 9, 64)
    assert grid.shape == (7, 9, 64)
    torch.testing.assert_close(positions_2d(3, 4, 64), grid[:3, :4])
    flat = grid.view(63, 64)
    assert (torch.cdist(flat, flat) + 10 * torch.eye(63)).min() > 0.1
    torch.testing.assert_close(grid[2, 5, :32], grid[2, 0, :32])  # the first half is the row's
    torch.testing.assert_close(grid[2, 5, 32:], grid[0, 5, 32:])


def test_pool_is_the_mean_over_the_chosen_cells():
    features, cells = torch.arange(12.0).view(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)
    cells[0, 0, 1, 1] = cells[0, 0, 2, 3] = 1
    assert pool(features, cells).tolist() == [[8.0]]  # (5 + 11) / 2
    assert pool(features, torch.zeros_like(cells)).tolist() == [[0.0]]
