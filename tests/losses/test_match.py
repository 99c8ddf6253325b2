import math
from dataclasses import replace

import pytest
import torch
from torch import zeros

from mmlib.losses.match import (
    MatchConfig,
    map_agreement,
    map_entropy,
    map_overlap,
    masked_point_match,
    match_loss,
    off_ink_mass,
    slot_info_nce,
)


def draw(*size, seed=0, dtype=torch.float32):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cos(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


def distributions(*size, seed=0, dtype=torch.float32):
    """Maps (b, k, h, w) that are softmaxes over their cells."""
    return draw(*size, seed=seed, dtype=dtype).flatten(2).softmax(2).view(size)


ALL = torch.ones(3, 2, dtype=torch.bool)
SOME = torch.tensor([[True, False], [True, True], [False, False]])

# slots


def slow_slots(student, teacher, visible, temperature):
    b, k, _ = student.shape
    losses = []
    for i in range(b):
        for s in range(k):
            if visible[i, s]:
                positive = math.exp(cos(student[i, s], teacher[i, s]) / temperature)
                below = positive
                for j in range(b):
                    for t in range(k):
                        if j != i:
                            below += math.exp(cos(student[i, s], teacher[j, t]) / temperature)
                losses.append(-math.log(positive / below))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("visible", [ALL, SOME])
def test_slots_equal_plain_loops(visible):
    student, teacher = draw(3, 2, 5, seed=1), draw(3, 2, 5, seed=2)
    ours = slot_info_nce(student, teacher, visible, 0.4)
    assert ours.item() == pytest.approx(slow_slots(student, teacher, visible, 0.4), abs=1e-5)


def test_slots_closed_forms():
    same = torch.ones(3, 2, 4)
    assert slot_info_nce(same, same, ALL).item() == pytest.approx(math.log(1 + 2 * 2), abs=1e-5)
    apart = torch.eye(6).view(3, 2, 6)
    expected = math.log(1 + 4 * math.exp(-1 / 0.5))
    assert slot_info_nce(apart, apart, ALL, 0.5).item() == pytest.approx(expected, abs=1e-5)


def test_slots_of_the_same_expression_are_no_negatives():
    student, teacher = draw(1, 2, 5, seed=1), draw(1, 2, 5, seed=2)
    assert slot_info_nce(student, teacher, ALL[:1]).item() == pytest.approx(0, abs=1e-6)


def test_slots_ignore_scale_order_of_expressions_and_order_of_slots():
    student, teacher = draw(3, 2, 5, seed=1), draw(3, 2, 5, seed=2)
    loss, order = slot_info_nce(student, teacher, SOME), torch.tensor([2, 0, 1])
    torch.testing.assert_close(slot_info_nce(student[order], teacher[order], SOME[order]), loss)
    torch.testing.assert_close(slot_info_nce(student.flip(1), teacher.flip(1), SOME.flip(1)), loss)
    torch.testing.assert_close(slot_info_nce(student * 3, teacher * 0.2, SOME), loss)


def test_hidden_slots_get_no_gradient_and_none_visible_gives_zero():
    student = draw(3, 2, 5, seed=1).requires_grad_()
    slot_info_nce(student, draw(3, 2, 5, seed=2), SOME).backward()
    assert torch.equal(student.grad.abs().sum(2) > 0, SOME)
    student.grad = None
    loss = slot_info_nce(student, draw(3, 2, 5, seed=2), ~ALL)
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


def test_slots_agree_with_a_library_for_one_slot():
    metric = pytest.importorskip("pytorch_metric_learning.losses")
    student, teacher = draw(8, 1, 5, seed=1), draw(8, 1, 5, seed=2)
    labels, ref = torch.arange(8), torch.arange(8)
    theirs = metric.NTXentLoss(0.2)(student[:, 0], labels, ref_emb=teacher[:, 0], ref_labels=ref)
    ours = slot_info_nce(student, teacher, torch.ones(8, 1, dtype=torch.bool))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


# masked points


def slow_points(pred, target, masked):
    hidden = [i for i in range(len(pred)) if masked[i]]
    losses = []
    for i in hidden:
        loss = 2 - 2 * cos(pred[i], target[i])
        losses.append(loss)
    return sum(losses) / len(losses)


MASKED = torch.tensor([True, False, True, True, False, True])


def test_points_equal_plain_loops():
    pred, target = draw(6, 4, seed=1), draw(6, 4, seed=2)
    ours = masked_point_match(pred, target, MASKED)
    assert ours.item() == pytest.approx(slow_points(pred, target, MASKED), abs=1e-5)


def test_points_closed_forms_and_invariances():
    pred, target = draw(6, 4, seed=1), draw(6, 4, seed=2)
    assert masked_point_match(target, target, MASKED).item() == pytest.approx(0, abs=1e-6)
    assert masked_point_match(-target, target, MASKED).item() == pytest.approx(4, abs=1e-5)
    loss, order = masked_point_match(pred, target, MASKED), torch.randperm(6)
    torch.testing.assert_close(masked_point_match(pred[order], target[order], MASKED[order], 0.3),
                               loss)
    torch.testing.assert_close(masked_point_match(pred * 9, target * 0.3, MASKED), loss)
    elsewhere = torch.where(MASKED[:, None], pred, pred + 5)
    torch.testing.assert_close(masked_point_match(elsewhere, target, MASKED), loss)


def test_nothing_masked_gives_a_zero_that_has_a_gradient():
    pred = draw(6, 4).requires_grad_()
    loss = masked_point_match(pred, draw(6, 4), ~MASKED & MASKED)
    loss.backward()
    assert loss.item() == 0
    assert not pred.grad.any()


# agreement of maps

OWNER = torch.tensor([0, 0, 0, 2, 2, 3])  # expression 1 has no points


def test_agreement_equals_plain_loops():
    student, teacher = draw(6, 2, seed=1).exp(), draw(6, 2, seed=2).exp()
    total = 0.0
    for i in (0, 2, 3):
        for k in range(2):
            p, q = teacher[i == OWNER, k].tolist(), student[i == OWNER, k].tolist()
            total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q))
    assert map_agreement(student, teacher, OWNER, 4).item() == pytest.approx(total / 6, abs=1e-5)


def test_agreement_closed_forms_and_invariances():
    student, teacher = draw(6, 2, seed=1).exp(), draw(6, 2, seed=2).exp()
    assert map_agreement(teacher * 3, teacher, OWNER, 4).item() == pytest.approx(0, abs=1e-6)
    two = torch.zeros(2, dtype=torch.long)
    sharp, even = torch.tensor([[1.0], [0.0]]), torch.ones(2, 1)
    assert map_agreement(even, sharp, two, 1).item() == pytest.approx(math.log(2), abs=1e-5)
    loss = map_agreement(student, teacher, OWNER, 4)
    order = torch.tensor([5, 1, 0, 3, 2, 4])
    torch.testing.assert_close(map_agreement(student[order], teacher[order], OWNER[order], 4), loss)
    torch.testing.assert_close(map_agreement(student.flip(1), teacher.flip(1), OWNER, 4), loss)
    torch.testing.assert_close(map_agreement(student, teacher, 9 - OWNER, 12), loss)


def test_agreement_is_finite_where_maps_vanish():
    student, teacher = zeros(6, 2).requires_grad_(), draw(6, 2).exp()
    loss = map_agreement(student, teacher, OWNER, 4)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert map_agreement(teacher, zeros(6, 2), OWNER, 4).item() == 0


def test_agreement_pulls_a_softmax_by_the_difference_of_the_distributions():
    logits = draw(3, 1, seed=1).requires_grad_()
    teacher = draw(3, 1, seed=2).softmax(0)
    map_agreement(logits.softmax(0), teacher, torch.zeros(3, dtype=torch.long), 1).backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(0) - teacher)


# regularisers

VALID = torch.ones(2, 3, 4, dtype=torch.bool)
VALID[1, :, 2:] = False


def test_entropy_equals_plain_loops_and_closed_forms():
    maps = distributions(2, 3, 3, 4)
    slow = sum(-float(p) * math.log(p) for p in maps[0].flatten()) / math.log(12)
    slow += sum(-float(p) * math.log(p) for p in maps[1].flatten()) / math.log(6)
    assert map_entropy(maps, VALID).item() == pytest.approx(slow / 6, abs=1e-5)
    even = VALID[:, None] / VALID.sum((1, 2))[:, None, None, None]
    assert map_entropy(even.expand(-1, 3, -1, -1), VALID).item() == pytest.approx(1, abs=1e-5)
    sharp = torch.eye(12)[:6].view(2, 3, 3, 4)
    assert map_entropy(sharp, VALID).item() == pytest.approx(0, abs=1e-6)
    assert map_entropy(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)).item() == 0


def test_overlap_equals_plain_loops_and_closed_forms():
    maps = distributions(2, 3, 3, 4)
    pairs = [cos(maps[i, j].flatten(), maps[i, k].flatten()) for i in range(2) for j in range(3)
             for k in range(j)]
    assert map_overlap(maps).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)
    assert map_overlap(maps[:, :1].expand(-1, 3, -1, -1)).item() == pytest.approx(1, abs=1e-5)
    assert map_overlap(torch.eye(12)[:6].view(2, 3, 3, 4)).item() == 0
    assert map_overlap(maps[:, :1]).item() == pytest.approx(0, abs=1e-6)


def test_off_ink_mass_equals_plain_loops_and_closed_forms():
    maps, ink = distributions(2, 3, 3, 4), draw(2, 3, 4, seed=1) > 0
    slow = sum(
        float(maps[b, k, i, j])
        for b in range(2) for k in range(3) for i in range(3) for j in range(4) if not ink[b, i, j]
    )
    assert off_ink_mass(maps, ink).item() == pytest.approx(slow / 6, abs=1e-5)
    assert off_ink_mass(maps, torch.ones_like(ink)).item() == pytest.approx(0, abs=1e-6)
    assert off_ink_mass(maps, torch.zeros_like(ink)).item() == pytest.approx(1, abs=1e-5)
    assert off_ink_mass(maps, torch.full((2, 3, 4), 0.25)).item() == pytest.approx(0.75, abs=1e-5)


@pytest.mark.parametrize("term", ["entropy", "overlap", "blank"])
def test_regularisers_ignore_the_order_of_maps_and_expressions(term):
    maps, ink = distributions(2, 3, 3, 4), draw(2, 3, 4, seed=1) > 0
    loss = {
        "entropy": lambda m, o: map_entropy(m, VALID[o]),
        "overlap": lambda m, o: map_overlap(m),
        "blank": lambda m, o: off_ink_mass(m, ink[o]),
    }[term]
    straight, crossed = torch.tensor([0, 1]), torch.tensor([1, 0])
    torch.testing.assert_close(loss(maps[crossed][:, [2, 0, 1]], crossed), loss(maps, straight))


# gradients, module, precision, shapes

D = torch.float64
GRADIENTS = {"slots": (lambda x: slot_info_nce(x, draw(3, 2, 4, seed=5, dtype=D), SOME, 0.5),
                       draw(3, 2, 4, dtype=D)),
             "points": (lambda x: masked_point_match(x, draw(6, 4, seed=5, dtype=D), MASKED),
                        draw(6, 4, dtype=D)),
             "agreement": (lambda x: map_agreement(x, draw(6, 2, dtype=D).exp(), OWNER, 4),
                           draw(6, 2, seed=3, dtype=D).exp()),
             "entropy": (lambda x: map_entropy(x, VALID), distributions(2, 2, 3, 4, dtype=D)),
             "overlap": (map_overlap, distributions(2, 3, 3, 4, dtype=D)),
             "blank": (lambda x: off_ink_mass(x, VALID), distributions(2, 3, 3, 4, dtype=D))}


@pytest.mark.parametrize("term", GRADIENTS)
def test_gradient(term):
    loss, x = GRADIENTS[term]
    assert torch.autograd.gradcheck(loss, (x.clone().requires_grad_(),))


def inputs(seed=0):
    return {
        "student_slots": draw(3, 2, 5, seed=seed),
        "teacher_slots": draw(3, 2, 5, seed=seed + 1),
        "visible": SOME,
        "pred": draw(6, 4, seed=seed + 2),
        "target": draw(6, 4, seed=seed + 3),
        "masked": MASKED,
        "student_at_points": draw(6, 2, seed=seed + 4).exp(),
        "teacher_at_points": draw(6, 2, seed=seed + 5).exp(),
        "owner": torch.tensor([0, 0, 1, 1, 2, 2]),
        "maps": distributions(3, 2, 3, 4, seed=seed + 6),
        "valid": torch.ones(3, 3, 4, dtype=torch.bool),
        "ink": draw(3, 3, 4, seed=seed + 7) > 0,
    }


def test_module_sums_the_weighted_terms():
    given = inputs()
    config = MatchConfig(
        1.0, 2.0, 3.0, 4.0, 5.0, 6.0, slot_temperature=0.3
    )
    total, parts = match_loss(config, **given)
    expected = {"slots": slot_info_nce(given["student_slots"], given["teacher_slots"], SOME, 0.3),
                "points": masked_point_match(given["pred"], given["target"], MASKED),
                "agreement": map_agreement(given["student_at_points"], given["teacher_at_points"],
                                           given["owner"], 3),
                "entropy": map_entropy(given["maps"], given["valid"]),
                "overlap": map_overlap(given["maps"]),
                "blank": off_ink_mass(given["maps"], given["ink"])}
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(total, sum(w * expected[name] for w, name in enumerate(expected, 1)))
    alone, still_reported = match_loss(
        replace(config, **(dict.fromkeys(expected, 0.0) | {"slots": 2.0})), **given)
    torch.testing.assert_close(alone, 2 * expected["slots"])
    assert set(still_reported) == set(expected)


def test_teacher_never_gets_a_gradient():
    given = inputs()
    moving = {"student_slots", "pred", "student_at_points", "maps"}
    fixed = {"teacher_slots", "target", "teacher_at_points"}
    for name in moving | fixed:
        given[name] = given[name].requires_grad_()
    match_loss(**given)[0].backward()
    assert all(given[name].grad.abs().sum() > 0 for name in moving)
    assert all(given[name].grad is None for name in fixed)


def test_bfloat16_is_computed_in_float32():
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs().items()}
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = match_loss(**half)
    expected, _ = match_loss(**{k: v.float() if v.is_floating_point() else v
                                 for k, v in half.items()})
    assert total.dtype == torch.float32
    assert torch.equal(total, expected)


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_bad_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weight overlap is"):
        MatchConfig(overlap=weight)


@pytest.mark.parametrize(("loss", "arguments", "message"),
                         [(slot_info_nce, [zeros(3, 2, 4), zeros(3, 2, 5), ALL],
                           r"teacher has shape \(3, 2, 5\), expected \(b, k, d\)"),
                          (slot_info_nce, [zeros(3, 2, 4), zeros(3, 2, 4), ALL[:2]],
                           r"visible has shape \(2, 2\), .* b=3, k=2"),
                          (masked_point_match, [zeros(6, 4), zeros(5, 4), MASKED],
                           r"target has shape \(5, 4\), expected \(n, d\)"),
                          (masked_point_match, [zeros(6, 4), zeros(6, 4), MASKED[:5]],
                           r"masked has shape \(5,\), .* n=6"),
                          (map_agreement, [zeros(6, 2), zeros(6, 3), OWNER, 4],
                           r"teacher_at_points has shape \(6, 3\)"),
                          (map_agreement, [zeros(6, 2), zeros(6, 2), OWNER[:2], 4],
                           r"owner has shape \(2,\), .* n=6"),
                          (map_entropy, [zeros(2, 3, 3, 4), VALID[:, None]],
                           r"valid has shape \(2, 1, 3, 4\), expected \(b, h, w\)"),
                          (map_overlap, [zeros(2, 3, 4)],
                           r"maps has shape \(2, 3, 4\), expected \(b, k, h, w\)"),
                          (off_ink_mass, [zeros(2, 3, 3, 4), zeros(2, 3, 5)],
                           r"ink has shape \(2, 3, 5\), .* b=2, h=3, w=4")])
def test_wrong_shapes_are_named(loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        loss(*arguments)
