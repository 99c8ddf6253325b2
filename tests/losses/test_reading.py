"""Stage 3's losses against slow references."""

import numpy as np
import pytest
import torch
from helpers import seeded

from mmlib.data.sample import symbol_classes
from mmlib.draw.views import STRIDE, ViewConfig, make_view
from mmlib.formula.vocabulary import Vocabulary
from mmlib.losses.reading import guide_loss, point_loss, sequence_loss
from mmlib.models.recogniser import Recogniser
from mmlib.train.profiles import TINY

VOCABULARY = Vocabulary.crohme()


def slow_sample(features, x, y):
    """Bilinear between cell centres at a point in cells; features (d, h, w)."""
    _, h, w = features.shape
    x, y = min(max(x - 0.5, 0), w - 1), min(max(y - 0.5, 0), h - 1)
    return sum(max(0, 1 - abs(i - y)) * max(0, 1 - abs(j - x)) * features[:, i, j] for i in range(h)
               for j in range(w))


@torch.no_grad()
@pytest.mark.parametrize("most", [10_000, 15])
def test_point_loss_is_the_slow_references(batch, most):
    torch.manual_seed(0)
    model, view = Recogniser(len(VOCABULARY), TINY), make_view(batch.ink, ViewConfig(), seeded())
    features = torch.randn(5, TINY.encoder.d, *view.valid.shape[2:], generator=seeded(1))
    batch.ink.symbol[::7] = -1  # loose ink says nothing
    classes = symbol_classes(batch)
    known = [n for n in range(len(batch.ink.owner)) if batch.ink.symbol[n] >= 0]
    losses = []
    for n in known[:: max(1, len(known) // most)]:
        e = int(batch.ink.owner[n])
        logits = model.symbols(slow_sample(features[e], *(view.points[n] / STRIDE).tolist()))
        losses.append(-logits.log_softmax(0)[classes[e, batch.ink.symbol[n]]])
    found = point_loss(model, features, view, batch.ink, classes, most)
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-4, rtol=1e-4)


def test_point_loss_without_known_ink_is_zero_with_a_gradient(batch):
    model, view = Recogniser(len(VOCABULARY), TINY), make_view(batch.ink, ViewConfig(), seeded())
    features = torch.randn(5, TINY.encoder.d, *view.valid.shape[2:], requires_grad=True)
    batch.ink.symbol[:] = -1
    loss = point_loss(model, features, view, batch.ink, symbol_classes(batch))
    assert loss == 0
    loss.backward()
    assert features.grad.abs().max() == 0


def test_guide_loss_is_the_slow_references(batch):
    view = make_view(batch.ink, ViewConfig(), seeded())
    b, t = batch.tokens.shape
    h, w = view.valid.shape[2:]
    # slots come last
    attention = torch.rand(b, 2, t + 1, h * w + 4, generator=seeded(1)).softmax(-1)
    losses = []
    for e in range(b):
        length = int((batch.tokens[e] != VOCABULARY.pad).sum())
        for at in range(length):
            symbol = int(batch.token_symbols[e, at])
            if symbol < 0:
                continue
            cells = {(int(y // STRIDE), int(x // STRIDE)) for x, y in
                     view.points[(batch.ink.owner == e) & (batch.ink.symbol == symbol)].tolist()}
            # r2l writes the last token first
            for direction, step in ((0, at), (1, length - 1 - at)):
                mass = sum(float(attention[e, direction, step, i * w + j]) for i, j in cells)
                losses.append(-np.log(mass + 1e-3))
    found = guide_loss(attention, view, batch, VOCABULARY)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)


def test_guide_loss_is_least_where_the_ink_is(batch):
    view = make_view(batch.ink, ViewConfig(), seeded())
    b, t = batch.tokens.shape
    h, w = view.valid.shape[2:]
    logits = torch.zeros(b, 2, t + 1, h * w, requires_grad=True)
    optim = torch.optim.Adam([logits], 2.0)
    for _ in range(8):
        optim.zero_grad()
        guide_loss(logits.softmax(-1), view, batch, VOCABULARY).backward()
        optim.step()
    assert guide_loss(logits.softmax(-1), view, batch, VOCABULARY) < 0.1


def test_sequence_loss_by_hand():
    v = len(VOCABULARY)
    logits = torch.randn(1, 2, 3, v, generator=seeded())
    targets = torch.tensor([[[5, VOCABULARY.eos, VOCABULARY.pad],
                             [5, VOCABULARY.sos, VOCABULARY.pad]]])
    chance = logits.log_softmax(-1)
    plain = [
        -chance[0, 0, 0, 5],
        -chance[0, 0, 1, VOCABULARY.eos],
        -chance[0, 1, 0, 5],
        -chance[0, 1, 1, VOCABULARY.sos],
    ]
    torch.testing.assert_close(sequence_loss(logits, targets, VOCABULARY, 0.0), sum(plain) / 4)
    even = -chance[:, :, :2].mean()
    torch.testing.assert_close(sequence_loss(logits, targets, VOCABULARY, 0.1),
                               0.9 * sum(plain) / 4 + 0.1 * even)
