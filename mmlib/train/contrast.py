"""Stage 1 by contrast: from two views, tell expressions apart and ink points apart."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmlib.data.sample import Batch
from mmlib.draw.views import InkBatch, View, ink_cells, make_view, sample
from mmlib.losses.contrast import contrast_loss, match_rate, spread
from mmlib.models.encoder import Encoder, EncoderConfig, encode_all
from mmlib.models.heads import pool, projection
from mmlib.models.layers import channels_last
from mmlib.train.loop import LossAndNumbers
from mmlib.train.stage import Pretrain

# Where local heads read, before or after the context: places in what `Encoder.both` gives.
LEVELS = {"after": (0,), "before": (1,), "both": (0, 1)}


class Embedded(NamedTuple):
    """What `contrast_loss` takes: b expressions and n points in two views."""

    z1: Tensor  # (b, d), of expressions
    z2: Tensor
    u1: Tensor  # (l, n, d), of points, at each level
    u2: Tensor
    owner: Tensor  # (n,) each point's expression
    position1: Tensor  # (n, 2) in cells
    position2: Tensor


class Contrast(nn.Module):
    """The encoder with its projection heads: one of expressions, and for points one per level.

    A head that `balance` gives no part in the loss is frozen: several processes wait for every
    gradient.
    """

    def __init__(self, config: EncoderConfig, balance: float = 0.5, level: str = "both",
                 bounded: bool = True):
        super().__init__()
        self.encoder, self.levels = Encoder(config), LEVELS[level]
        self.global_head = projection(config.d, bounded=bounded)
        self.local_heads = nn.ModuleList(
            projection((config.d, config.widths[-1])[n], bounded=bounded) for n in self.levels)
        self.global_head.requires_grad_(balance > 0)
        self.local_heads.requires_grad_(balance < 1)

    def forward(self, views: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], owner: Tensor
                ) -> tuple[Tensor, Tensor]:
        """z (views, b, 128) of expressions and u (views, levels, n, 128) of points.

        views: of the same b expressions, each picture (b, 1, H, W), valid and ink (b, 1, h, w),
        points (n, 2) in cells; owner: (n,) the points' expressions. All views in one call: between
        two, several processes would exchange the running means and variances that the first one's
        gradient needs.
        """
        pictures, valid, inks, places = zip(*views, strict=True)
        seen = encode_all(self.encoder, pictures, valid)
        z = [self.global_head(pool(f, ink)) for (f, _), ink in zip(seen, inks, strict=True)]
        u = [head(sample(levels[n], at, owner))
             for levels, at in zip(seen, places, strict=True)
             for n, head in zip(self.levels, self.local_heads, strict=True)]
        return torch.stack(z), torch.stack(u).unflatten(0, (len(seen), -1))


def common_points(first: View, second: View, ink: InkBatch, each: int, rng: torch.Generator
                  ) -> Tensor:
    """Indices of at most `each` ink points per expression that both views show, ascending."""
    shown = first.kept & second.kept
    chance = torch.rand(len(shown), generator=rng).to(shown.device).masked_fill(~shown, 2.0)
    # By expression, then by chance; those not shown come last (1/4 < 1/2 < 1).
    order = torch.argsort(ink.owner + chance / 4)
    start = torch.searchsorted(ink.owner, torch.arange(ink.b, device=shown.device))
    rank = torch.arange(len(shown), device=shown.device) - start[ink.owner]
    chosen = order[rank < each]
    return chosen[shown[chosen]].sort().values


class ContrastObjective(Pretrain):
    """Tell whole expressions apart, and ink points apart, in two views (`contrast_loss`).

    The ink gives the local correspondences exactly, under any warp. `balance` 1 is SimCLR
    (arXiv:2002.05709), 0 is dense contrast (arXiv:2011.09157) with ink in place of the picture's
    cells. Negatives may be false: two writers of one formula, two plus signs.
    """

    def build(self) -> None:
        config = self.config
        if config.level not in LEVELS:
            raise ValueError(f"level is one of {', '.join(LEVELS)}; got {config.level!r}")
        network = Contrast(config.encoder, config.balance, config.level, config.bounded)
        self.network = channels_last(network, self.tools.device)
        if not config.balance:  # the other head is not trained
            self.gauge = "local_match"

    def embed(self, batch: Batch, rng: torch.Generator) -> Embedded:
        """Two views of each expression, embedded."""
        config, ink = self.config, batch.ink
        views = first, second = [make_view(ink, config.view, rng) for _ in range(2)]
        chosen = common_points(first, second, ink, config.points, rng)
        owner, at1, at2 = ink.owner[chosen], first.cells[chosen], second.cells[chosen]
        shown = [(v.picture, v.valid, ink_cells(v, ink.b, ink.owner), at)
                 for v, at in zip(views, (at1, at2), strict=True)]
        (z1, z2), (u1, u2) = self.network(shown, owner)
        return Embedded(z1, z2, u1, u2, owner, at1, at2)

    def loss(self, batch: Batch, rng: torch.Generator, done: float) -> LossAndNumbers:
        c = self.config
        return contrast_loss(*self.embed(batch, rng), c.balance, c.global_temperature,
                             c.local_temperature, c.radius, self.gather)

    def measure(self, batch: Batch, rng: torch.Generator) -> dict[str, float]:
        """Retrieval of the other view within the batch, of expressions and points; spread of z.

        `length` is the mean length of z: one that grows without bound came before a collapse.
        """
        found = self.embed(batch, rng)
        return {
            "global_match": float(match_rate(found.z1, found.z2)),
            "local_match": float(match_rate(found.u1[0], found.u2[0])),
            "spread": float(spread(found.z1)),
            "length": float(found.z1.float().norm(dim=1).mean()),
        }
