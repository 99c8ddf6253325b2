"""Decoder: the cache changes nothing, the future is not seen, neighbours share a memory and nothing
else.
"""

import pytest
import torch

from mmlib.models.decoder import Cache, Decoder, DecoderConfig, Memory
from mmlib.train.profiles import TINY

V, CELLS = 11, 7


def memory(b=2, seed=0, cells=CELLS, padded=0):
    """A random memory; the last `padded` cells of every picture are padding."""
    rng = torch.Generator().manual_seed(seed)
    features, position = (torch.randn(b, cells, TINY.decoder.d, generator=rng) for _ in range(2))
    bias = torch.zeros(b, 1, 1, cells)
    if padded:
        bias[..., -padded:] = -1e4
    return Memory(features, position, bias)


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return Decoder(V, TINY.decoder).eval()


def tokens(rows, t, seed=0):
    return torch.randint(0, V, (rows, t), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_with_a_cache_as_without(decoder, beams):
    prefix, held = tokens(2 * beams, 9), memory()
    whole, _ = decoder(prefix, held)
    cache = Cache()
    steps = [decoder(prefix[:, i : i + 1], held, cache)[0] for i in range(9)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=1e-4)
    assert cache.t == 9


@torch.no_grad()
def test_selecting_rows_of_a_cache_is_another_history(decoder):
    """Two groups of three rows: rows take over others' pasts, twice; then the second group goes on
    alone, past the first room.
    """
    first, held, parents = tokens(6, 4), memory(), torch.tensor([[2, 2, 0], [1, 0, 2]])
    cache = Cache(3)
    for i in range(4):
        decoder(first[:, i : i + 1], held, cache)
    for seed in (3, 4):
        cache.select(parents)
        rows = (parents + torch.tensor([[0], [3]])).flatten()
        new = tokens(6, 1, seed)
        first = torch.cat([first[rows], new], 1)
        torch.testing.assert_close(decoder(new, held, cache)[0][:, 0],
                                   decoder(first, held)[0][:, -1], atol=1e-4, rtol=1e-4)
    cache.select(torch.tensor([[0, 0, 1]]), groups=torch.tensor([1]))
    first, held = first[[3, 3, 4]], held.select(torch.tensor([1]))
    for i in range(40):
        new = tokens(3, 1, seed=i)
        first, step = torch.cat([first, new], 1), decoder(new, held, cache)[0]
    torch.testing.assert_close(step[:, 0], decoder(first, held)[0][:, -1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_future_is_not_seen(decoder):
    prefix = tokens(2, 8)
    other = prefix.clone()
    other[:, 5:] = (other[:, 5:] + 1) % V
    a, b = decoder(prefix, memory())[0], decoder(other, memory())[0]
    torch.testing.assert_close(a[:, :5], b[:, :5], atol=1e-5, rtol=0)
    assert (a[:, 5:] - b[:, 5:]).abs().max() > 1e-3


@torch.no_grad()
def test_rows_of_a_picture_share_its_memory_and_nothing_else(decoder):
    prefix, held = tokens(6, 5), memory()
    together, _ = decoder(prefix, held)
    for row in range(6):
        own = Memory(*(getattr(held, f)[row // 3 : row // 3 + 1]
                       for f in ("features", "position", "bias")))
        torch.testing.assert_close(decoder(prefix[row : row + 1], own)[0][0], together[row],
                                   atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padding_of_the_memory_is_not_looked_at(decoder):
    prefix, held = tokens(2, 5), memory(padded=3)
    kept = Memory(held.features[:, :-3], held.position[:, :-3], held.bias[..., :-3])
    torch.testing.assert_close(decoder(prefix, held)[0], decoder(prefix, kept)[0], atol=1e-4,
                               rtol=1e-4)
    _, attention = decoder(prefix, memory(padded=3), want_attention=True)
    assert attention[..., -3:].max() == 0


@torch.no_grad()
def test_wanting_the_attention_changes_no_logits(decoder):
    prefix = tokens(4, 6)
    plain, nothing = decoder(prefix, memory())
    logits, attention = decoder(prefix, memory(), want_attention=True)
    assert nothing is None
    assert attention.shape == (4, 6, CELLS)
    torch.testing.assert_close(logits, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention.sum(-1), torch.ones(4, 6))


@torch.no_grad()
def test_the_attention_is_the_guided_layers_first_head(decoder):
    """By hand from the layer's own weights, after the layers before it."""
    prefix, held, seen = tokens(2, 4), memory(), {}
    layer = decoder.layers[decoder.config.guided]
    hook = layer.query.register_forward_hook(lambda _, __, out: seen.update(q=out))
    _, attention = decoder(prefix, held, want_attention=True)
    hook.remove()
    e = TINY.decoder.d // TINY.decoder.heads
    q, k = seen["q"].view(2, 4, -1)[..., :e], layer.key(held.features + held.position)[..., :e]
    torch.testing.assert_close(attention, (q @ k.transpose(1, 2) / e**0.5).softmax(-1), atol=1e-5,
                               rtol=1e-4)


def test_order_matters(decoder):
    with torch.no_grad():
        a = decoder(torch.tensor([[1, 2, 3, 4]]), memory(1))[0][:, -1]
        b = decoder(torch.tensor([[2, 1, 3, 4]]), memory(1))[0][:, -1]
    assert (a - b).abs().max() > 1e-3


def test_dropout_is_for_training_alone():
    torch.manual_seed(0)
    decoder = Decoder(V, DecoderConfig(**{**vars(TINY.decoder), "dropout": 0.5}))
    prefix = tokens(2, 5)
    with torch.no_grad():
        assert not torch.equal(decoder(prefix, memory())[0], decoder(prefix, memory())[0])
        decoder.eval()
        assert torch.equal(decoder(prefix, memory())[0], decoder(prefix, memory())[0])


def test_every_weight_learns():
    torch.manual_seed(0)
    decoder = Decoder(V, TINY.decoder)
    decoder(tokens(4, 6), memory())[0].square().mean().backward()
    idle = [name for name, p in decoder.named_parameters() if p.grad is None
            or not p.grad.abs().max() > 0]
    # A bias on the keys shifts all logits of a query alike: softmax does not feel it, so its
    # gradient is rounding.
    assert [name for name in idle if not name.endswith("key.bias")] == []
