"""The whole model: what attention gives can be switched off, and padding reaches nobody."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from mmlib.models.recogniser import ModelConfig, Recogniser
from mmlib.train.profiles import TINY

V = 13


def model(seed=0, **changes):
    """A random tiny model, its zero-initialised branches too."""
    torch.manual_seed(seed)
    built = Recogniser(V, replace(TINY, **changes))
    with torch.no_grad():
        for name, p in built.named_parameters():
            if name.startswith("encoder.") and p.abs().max() == 0:
                p.normal_(std=0.05)
    return built.eval()


def batch(seed=0):
    rng = torch.Generator().manual_seed(seed)
    x, valid = torch.rand(2, 1, 32, 48, generator=rng), torch.ones(2, 1, 4, 6)
    x[1, :, 16:], x[1, :, :, 32:], valid[1, :, 2:], valid[1, :, :, 4:] = 0, 0, 0, 0
    return x, valid, torch.randint(0, V, (2, 2, 6), generator=rng)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"slots": False}, {"modulate": False}, {"maps": 0}],
                         ids=str)
def test_logits_do_not_depend_on_padding_or_companions(changes):
    reader, (x, valid, tokens) = model(**changes), batch()
    reader.scalars["gamma"].fill_(0.7)
    logits, attention, encoded = reader(x, valid, tokens)
    slots = reader.config.maps if reader.config.slots else 0
    assert logits.shape == (2, 2, 6, V)
    assert attention.shape == (2, 2, 6, 24 + slots)
    assert encoded.features.shape == (2, TINY.encoder.d, 4, 6)
    alone, _, _ = reader(x[1:, :, :16, :32], valid[1:, :, :2, :4], tokens[1:])
    torch.testing.assert_close(logits[1:], alone, atol=1e-4, rtol=0)
    roomy, _, _ = reader(pad(x, (0, 32, 0, 16)), pad(valid, (0, 4, 0, 2)), tokens)
    torch.testing.assert_close(roomy, logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_gamma_zero_is_no_modulation():
    x, valid, tokens = batch()
    with_gamma, without = model(slots=False), model(slots=False, modulate=False)
    without.load_state_dict(with_gamma.state_dict())
    assert float(with_gamma.scalars["gamma"]) == 0  # where it begins
    torch.testing.assert_close(with_gamma(x, valid, tokens)[0], without(x, valid, tokens)[0])
    with_gamma.scalars["gamma"].fill_(1.0)
    assert (with_gamma(x, valid, tokens)[0] - without(x, valid, tokens)[0]).abs().max() > 1e-3


@torch.no_grad()
def test_without_gamma_and_slots_it_is_the_plain_model():
    x, valid, tokens = batch()
    off, plain = model(slots=False, modulate=False), model(maps=0)
    missing, unexpected = plain.load_state_dict({k: v for k, v in off.state_dict().items()
                                                 if not k.startswith("attention.")
                                                 and k != "scalars.slot_position"}, strict=False)
    assert (missing, unexpected) == (["scalars.slot_position"], [])
    torch.testing.assert_close(off(x, valid, tokens)[0], plain(x, valid, tokens)[0])


@torch.no_grad()
def test_slots_are_looked_at():
    x, valid, tokens = batch()
    reader = model()
    _, attention, encoded = reader(x, valid, tokens)
    assert encoded.memory.features.shape[1] == 24 + TINY.maps
    assert (attention[..., 24:].sum(-1) > 0).all()
    before = reader(x, valid, tokens)[0]
    reader.scalars["slot_gate"].fill_(2.0)
    assert (reader(x, valid, tokens)[0] - before).abs().max() > 1e-3


def test_modulation_is_as_written():
    x, valid, _ = batch()
    reader = model(slots=False)
    with torch.no_grad():
        reader.scalars["gamma"].fill_(0.5)
        encoded = reader.encode(x, valid)
    seen = encoded.features * (1 + 0.5 * encoded.attention.saliency)
    torch.testing.assert_close(encoded.memory.features, seen.flatten(2).transpose(1, 2))


def test_gamma_and_gate_learn():
    x, valid, tokens = batch()
    reader = model().train()
    reader(x, valid, tokens)[0].square().mean().backward()
    for name in ("gamma", "slot_gate", "slot_position"):
        assert reader.scalars[name].grad.abs().max() > 0


def test_widths_must_agree():
    with pytest.raises(ValueError, match="64 and 192"):
        Recogniser(V, ModelConfig(TINY.encoder))
