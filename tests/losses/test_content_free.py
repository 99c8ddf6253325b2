"""Content-free solutions are not solutions: on toy ink, none reaches the loss of maps that follow
content.

A toy expression is a row of nine symbols, each one ink point with the feature of its class. Two
warps put it on two grids; in each, a family of maps attends. Families are trained with the loss on
fresh toys, and judged on others, so that it is the best of its kind that loses, not one unlucky
member.
"""

import functools

import pytest
import torch
import torch.nn.functional as F

from mmlib.losses.match import match_loss

B, SYMBOLS, K, CLASSES, D, H, W = 16, 9, 3, 30, 16, 6, 24
COLUMN, ROW = (torch.arange(H * W) % W).float(), (torch.arange(H * W) // W).float()
PROTOTYPES = F.normalize(torch.randn(CLASSES, D, generator=torch.Generator().manual_seed(99)),
                         dim=1)


def toy(seed, window):
    """Features (b, n, d) of the symbols; in each view, the cell of each symbol and whether the view
    shows it.

    A view shows ``window`` consecutive symbols of the nine.
    """
    rng = torch.Generator().manual_seed(seed)
    label = torch.rand(B, CLASSES, generator=rng).argsort(1)[:, :SYMBOLS]
    feature = PROTOTYPES[label] + 0.03 * torch.randn(B, SYMBOLS, D, generator=rng)
    x = torch.linspace(-1, 1, SYMBOLS) + 0.05 * torch.randn(B, SYMBOLS, generator=rng)
    y = (0.5 * torch.randn(B, SYMBOLS, generator=rng)).clamp(-1, 1)
    views = []
    for _ in range(2):
        scale = 0.5 + 0.5 * torch.rand(B, 1, 2, generator=rng)
        shift = (torch.rand(B, 1, 2, generator=rng) * 2 - 1) * (1 - scale)
        place = (torch.stack([x, y], 2) * scale + shift).clamp(-1, 1)
        column, row = (
            (((place + 1) / 2) * torch.tensor([W - 1.0, H - 1.0])).round().long().unbind(2)
        )
        start = torch.randint(0, SYMBOLS - window + 1, (B, 1), generator=rng)
        shown = (torch.arange(SYMBOLS) >= start) & (torch.arange(SYMBOLS) < start + window)
        views.append((row * W + column, shown))
    return feature, *views


def match(attend, seed, window=SYMBOLS, collapsed=False):
    """Match loss and parts of maps ``attend(features (b, cells, d), ink (b, cells)) -> (b, k,
    cells)``.
    """
    feature, (cell, shown), (cell_t, shown_t) = toy(seed, window)

    def grid(values, cells, shown):
        empty = torch.zeros(B, H * W, D)
        return empty.scatter_add(1, cells[..., None].expand(-1, -1, D), values * shown[..., None])

    def at(maps, cells):
        return maps.gather(2, cells[:, None].expand(-1, K, -1)).transpose(1, 2)  # (b, n, k)

    def ink(cells, shown):
        return torch.zeros(B, H * W).scatter_add(1, cells, shown.float()) > 0

    maps = attend(grid(feature, cell, shown), ink(cell, shown))
    maps_t = attend(grid(feature, cell_t, shown_t), ink(cell_t, shown_t))
    if collapsed:  # the maps may stay as good as they like
        feature = torch.ones_like(feature)
    both = shown & shown_t
    support = at(maps_t, cell_t)
    flat = feature.flatten(0, 1)
    return match_loss(
        student_slots=maps @ grid(feature, cell, shown),
        teacher_slots=maps_t @ grid(feature, cell_t, shown_t),
        visible=(support * shown[..., None]).sum(1) > 0.5 * support.sum(1),
        pred=flat,  # every family is granted a perfect predictor of what is masked
        target=flat,
        masked=torch.arange(B * SYMBOLS) % 3 == 0,
        student_at_points=at(maps, cell)[both],
        teacher_at_points=support[both],
        owner=torch.arange(B)[:, None].expand(B, SYMBOLS)[both],
        maps=maps.view(B, K, H, W),
        valid=torch.ones(B, H, W, dtype=torch.bool),
        ink=ink(cell, shown).view(B, H, W),
    )


def on_ink(logits, ink):
    return logits.masked_fill(~ink[:, None], -1e4).softmax(2)


FAMILIES = {  # from weights to maps, and the weights' shape
    "content": (lambda w: lambda f, ink: on_ink((f @ w).transpose(1, 2), ink), (D, K)),
    "position": (lambda w: lambda f, ink: w.expand(B, K, -1).softmax(2), (K, H * W)),
    "position on ink": (lambda w: lambda f, ink: on_ink(w.expand(B, K, -1), ink), (K, H * W)),
}


def judge(attend, **kwargs):
    """Mean total over toys that no family was trained on."""
    with torch.no_grad():
        return sum(match(attend, 10_000 + i, **kwargs)[0].item() for i in range(15)) / 15


@functools.cache
def best(family, window=SYMBOLS):
    """The family's maps after training on the match loss."""
    make, size = FAMILIES[family]
    weights = (0.3 * torch.randn(size, generator=torch.Generator().manual_seed(1))).requires_grad_()
    optimiser = torch.optim.Adam([weights], 0.1)
    for step in range(300):
        optimiser.zero_grad()
        match(make(weights), step, window)[0].backward()
        optimiser.step()
    return make(weights.detach())


def stripes(f, ink):
    """Map i is the i-th third of the picture's width."""
    return F.one_hot(COLUMN.long() * K // W, K).T.float().div(H * W / K).expand(B, K, -1)


def uniform(f, ink):
    return torch.full((B, K, H * W), 1 / (H * W))


def uniform_on_ink(f, ink):
    return on_ink(torch.zeros(B, K, H * W), ink)


def ends(f, ink):
    """The left, right and lower end of the ink: no content, yet the same ink under every warp."""
    return on_ink(torch.stack([-COLUMN, COLUMN, 2 * ROW]).expand(B, K, -1), ink)


@pytest.mark.parametrize(("rival", "margin"),
                         [(uniform, 1.5), (uniform_on_ink, 0.4), (stripes, 2.0)])
def test_constant_maps_and_stripes_lose(rival, margin):
    assert judge(best("content")) + margin < judge(rival)


def test_the_best_map_of_position_alone_loses():
    assert judge(best("content")) + 0.5 < judge(best("position"))


def test_a_collapsed_teacher_loses_even_with_the_best_maps():
    assert judge(best("content")) + 2 < judge(best("content"), collapsed=True)


def test_each_rival_fails_the_term_that_is_there_against_it():
    def parts(attend, **kwargs):
        return {name: value.item() for name, value in match(attend, 10_000, **kwargs)[1].items()}

    assert parts(uniform)["entropy"] == pytest.approx(1, abs=1e-4)
    assert parts(uniform)["overlap"] == pytest.approx(1, abs=1e-4)
    assert parts(uniform)["blank"] > 0.9
    assert parts(uniform_on_ink)["overlap"] == pytest.approx(1, abs=1e-4)
    assert parts(stripes)["agreement"] > 1
    collapsed = parts(best("content"), collapsed=True)
    # which is why points alone would collapse
    assert collapsed["points"] == pytest.approx(0, abs=1e-5)
    assert collapsed["slots"] == pytest.approx(torch.tensor(1.0 + (B - 1) * K).log().item(),
                                               abs=1e-3)


def test_ends_of_the_ink_lose_clearly_only_where_the_views_show_different_windows():
    """The ends of the ink are the same ink under any warp, so whole views hardly tell them from
    content.

    Views that show different parts of the expression do: each has other ends.
    """
    whole = judge(best("position on ink")) - judge(best("content"))
    windows = judge(best("position on ink", 6), window=6) - judge(best("content", 6), window=6)
    assert windows > 0.25
    assert windows > whole + 0.1
    assert judge(ends, window=6) > judge(best("content", 6), window=6) + 0.25
