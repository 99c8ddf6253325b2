"""Stage 2: a student that sees a masked, warped expression matches a teacher that sees all of it.

The teacher's side never gets a gradient. Maps are distributions over the valid cells of an
expression. Every term computes in float32 (or float64) under autocast and returns a scalar; a term
with nothing to match (no visible slot, no masked point) is a zero that still has a gradient. With
`gather`, negatives come from all processes, and means are over all. Shapes are checked: ValueError.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.losses.shared import full_precision, gather_rows, mean_over_processes, require

TINY = 1e-12  # logarithms and quotients are of no less: a map may vanish at all sampled points


@full_precision
def slot_info_nce(student: Tensor, teacher: Tensor, visible: Tensor, temperature: float = 0.2,
                  gather: bool = False) -> Tensor:
    """InfoNCE of the student's slot k with the teacher's slot k of the same expression.

    Negatives are all the teacher's slots of the other expressions. The other slots of the *same*
    expression are no negatives: their content may truly be alike (two plus signs); keeping maps
    apart is the work of `map_overlap`.

    Args:
        student, teacher: (b, k, d); normalised here.
        visible: (b, k) bool, slots that keep visible support; the mean is over these.
        temperature: above 0.
    """
    size = require("student: b k d, teacher: b k d, visible: b k",
                   student=student, teacher=teacher, visible=visible)
    b, k, device = size["b"], size["k"], student.device
    teacher, start = gather_rows(F.normalize(teacher.detach(), dim=2), gather)
    logits = torch.einsum("bkd,cld->bkcl", F.normalize(student, dim=2), teacher) / temperature
    # With several processes, our expressions stand from `start` on among those of all.
    own, slot = start + torch.arange(b, device=device), torch.arange(k, device=device)
    same = (own[:, None] == torch.arange(len(teacher), device=device))[:, None, :, None]
    left_out = same & (slot[:, None] != slot)[None, :, None, :]
    logits = logits.masked_fill(left_out, -torch.inf).flatten(2)  # (b, k, k of all expressions)
    positive = (own[:, None] * k + slot).flatten()
    loss = F.cross_entropy(logits.flatten(0, 1), positive, reduction="none").view(b, k)
    return mean_over_processes((loss * visible).sum(), visible.sum(), gather)


@full_precision
def masked_point_match(pred: Tensor, target: Tensor, masked: Tensor,
                       gather: bool = False) -> Tensor:
    """Mean of ``2 - 2 cos`` (the form of BYOL) over the masked ink points.

    Args:
        pred, target: (n, d), the student's prediction and the teacher's features at each point.
        masked: (n,) bool; visible points teach nothing, since the student sees them.
    """
    require("pred: n d, target: n d, masked: n", pred=pred, target=target, masked=masked)
    keep = masked.nonzero().squeeze(1)
    pred, target = F.normalize(pred[keep], dim=1), F.normalize(target.detach()[keep], dim=1)
    total = (2 - 2 * (pred * target).sum(1)).sum()
    return mean_over_processes(total, len(keep), gather)


@full_precision
def map_agreement(student_at_points: Tensor, teacher_at_points: Tensor, owner: Tensor, b: int,
                  gather: bool = False) -> Tensor:
    """How far the student's maps are from the teacher's at corresponding points, under two warps.

    For each expression and map, the values at its sampled ink points are normalised to a
    distribution over these points; the term is KL(teacher ‖ student), averaged over expressions
    with points and maps. KL rather than Jensen-Shannon: for maps that are softmaxes its gradient on
    the logits is the difference of the two distributions, which does not fade when they are
    disjoint. KL rather than cross-entropy: agreement is 0.

    Args:
        student_at_points, teacher_at_points: (n, k), at least 0, maps at the same ink points.
        owner: (n,) int in [0, b), each point's expression.
    """
    require("student_at_points: n k, teacher_at_points: n k, owner: n", owner=owner,
            student_at_points=student_at_points, teacher_at_points=teacher_at_points)
    student, teacher = student_at_points, teacher_at_points.detach()
    k = student.shape[1]
    index = owner.long()[:, None].expand(-1, k)

    def over_points(x: Tensor) -> Tensor:
        return x.new_zeros(b, k).scatter_add(0, index, x)  # (b, k)

    # What lies between the sampled points is not compared: only what both views show is.
    mass_s, mass_t = over_points(student).clamp_min(TINY), over_points(teacher).clamp_min(TINY)
    p = teacher / mass_t[owner]
    difference = p.clamp_min(TINY).log() - (student / mass_s[owner]).clamp_min(TINY).log()
    # An expression without a sampled point has nothing to agree on, and does not count.
    present = p.new_zeros(b).index_fill(0, owner.long(), 1.0)
    return mean_over_processes((p * difference).sum(), present.sum() * k, gather)


@full_precision
def map_entropy(maps: Tensor, valid: Tensor, gather: bool = False) -> Tensor:
    """Mean entropy of the maps (b, k, h, w), over that of the uniform map: 0 is one cell.

    valid (b, h, w) bool: cells that are not padding.
    """
    require("maps: b k h w, valid: b h w", maps=maps, valid=valid)
    entropy = -(maps * maps.clamp_min(TINY).log()).sum((2, 3))  # (b, k)
    most = valid.sum((1, 2)).clamp_min(2).to(entropy.dtype).log()  # log 2 for one valid cell
    share = entropy / most[:, None]
    return mean_over_processes(share.sum(), share.numel(), gather)


@full_precision
def map_overlap(maps: Tensor, gather: bool = False) -> Tensor:
    """Mean cosine in [0, 1] between different maps (b, k, h, w) of an expression; 0 for one map."""
    k = require("maps: b k h w", maps=maps)["k"]
    unit = F.normalize(maps.flatten(2), dim=2)
    cosine = unit @ unit.transpose(1, 2)  # (b, k, k)
    apart = 1 - torch.eye(k, device=maps.device, dtype=maps.dtype)
    return mean_over_processes((cosine * apart).sum(), len(maps) * max(k * (k - 1), 1), gather)


@full_precision
def off_ink_mass(maps: Tensor, ink: Tensor, gather: bool = False) -> Tensor:
    """Mean mass that the maps (b, k, h, w) put on cells without ink, in [0, 1].

    ink (b, h, w): bool, or the share in [0, 1] to which a cell counts as ink.
    """
    require("maps: b k h w, ink: b h w", maps=maps, ink=ink)
    off = (maps * (1 - ink.to(maps.dtype))[:, None]).sum((2, 3))
    return mean_over_processes(off.sum(), off.numel(), gather)


@dataclass(frozen=True)
class MatchConfig:
    """Weights of the terms of `match_loss`, and their temperatures."""

    slots: float = 1.0  # slot_info_nce: the one term that a collapsed teacher cannot satisfy
    points: float = 1.0  # masked_point_match
    agreement: float = 1.0  # map_agreement
    entropy: float = 0.5  # map_entropy: sharp maps
    overlap: float = 0.5  # map_overlap: different maps
    blank: float = 1.0  # off_ink_mass
    slot_temperature: float = 0.2
    gather: bool = False  # negatives from all processes, means over all

    def __post_init__(self) -> None:
        for name in ("slots", "points", "agreement", "entropy", "overlap", "blank"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weight {name} is {weight}, expected a finite number from 0 on")


def match_loss(config: MatchConfig = MatchConfig(), *, student_slots: Tensor,
               teacher_slots: Tensor, visible: Tensor, pred: Tensor, target: Tensor, masked: Tensor,
               student_at_points: Tensor, teacher_at_points: Tensor, owner: Tensor, maps: Tensor,
               valid: Tensor, ink: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms, and each detached; one of weight zero gets no gradient.

    Args:
        student_slots, teacher_slots: (b, k, d); visible: (b, k) bool.
        pred, target: (n, d) at sampled ink points; masked: (n,) bool.
        student_at_points, teacher_at_points: (m, k) maps at ink points, the same or others;
            owner: (m,) int, their expressions.
        maps: (b, k, h, w) the student's; valid: (b, h, w) bool; ink: (b, h, w) bool or share.
    """
    c, joint = config, config.gather
    terms = {
        "slots": slot_info_nce(student_slots, teacher_slots, visible, c.slot_temperature, joint),
        "points": masked_point_match(pred, target, masked, joint),
        "agreement": map_agreement(student_at_points, teacher_at_points, owner, len(maps), joint),
        "entropy": map_entropy(maps, valid, joint),
        "overlap": map_overlap(maps, joint),
        "blank": off_ink_mass(maps, ink, joint),
    }
    total = sum(getattr(c, name) * term for name, term in terms.items() if getattr(c, name))
    return total, {name: term.detach() for name, term in terms.items()}
