import math

import numpy as np
import pytest
import torch

from mmlib.draw.views import InkBatch, ViewConfig, make_view, sample
from mmlib.formula.ink import Ink
from mmlib.measure import probes
from mmlib.measure.probes import RELATIONS, relations
from mmlib.models.encoder import Encoder
from mmlib.train.profiles import TINY

VIEW = ViewConfig()


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(TINY.encoder).eval()


@pytest.fixture
def pack(make_ink, make_pack):
    formulas = [r"x_i^2+1", r"\frac{a}{b}", r"\sqrt{c}-2", r"\sum_{i=1}^nx"]
    return make_pack([make_ink(f, str(k), seed=k) for k, f in enumerate(formulas)])


@pytest.fixture
def clusters():
    """Fifty expressions of eight symbols in four classes: features (s, d) that say nothing, label
    and expression (s,).
    """
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 400)
    return (
        torch.from_numpy(rng.normal(size=(400, 6))).float(),
        label * 3 + 2,
        np.repeat(np.arange(50), 8),
    )


def named(ink):
    return sorted((ink.symbols[a].label, ink.symbols[b].label, relation)
                  for a, b, relation in relations(ink))


# --- relations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("latex", "expected"), [
    ("x_i^2", [("x", "2", "Sup"), ("x", "i", "Sub")]),
    (r"\frac{a}{b}", [(r"\frac", "a", "Above"), (r"\frac", "b", "Below")]),
    (r"\sqrt{c}", [(r"\sqrt", "c", "Inside")]),
    (r"\sqrt[3]{cd}=1", [("=", "1", "Right"), (r"\sqrt", "3", "Above"), (r"\sqrt", "=", "Right"),
                         (r"\sqrt", "c", "Inside"),
                         ("c", "d", "Right")]),
    (r"\sum_{i=1}^nx", [("=", "1", "Right"), (r"\sum", "i", "Sub"), (r"\sum", "n", "Sup"),
                        (r"\sum", "x", "Right"),
                        ("i", "=", "Right")]),
    # an empty base has no ink
    (r"a^{b_c}+{}^2d", [("a", "+", "Right"), ("a", "b", "Sup"), ("b", "c", "Sub")]),
])
def test_relations_of_hand_written_layouts(make_ink, latex, expected):
    assert named(make_ink(latex, "a")) == expected


def test_relations_need_symbols():
    with pytest.raises(ValueError, match="aligned"):
        relations(Ink.from_strokes([np.array([[0.0, 0], [1, 1]])]))


# --- what is probed -------------------------------------------------------------------------------


def test_features_are_means_over_each_symbols_points(encoder, pack):
    found = probes.describe(encoder, pack, [2, 0, 1], VIEW)
    row = 0
    for place, i in enumerate([2, 0, 1]):
        ink = pack[i]
        points, stroke = torch.from_numpy(ink.points), torch.from_numpy(ink.stroke).long()
        seen = make_view(InkBatch(points, stroke, torch.zeros_like(stroke), 1), VIEW.still(),
                         torch.Generator())
        with torch.no_grad():
            features = encoder(seen.picture, seen.valid)
        for symbol in ink.symbols:
            own = torch.isin(stroke, torch.tensor(symbol.strokes))
            mean = torch.stack([sample(features, cell[None], torch.zeros(1).long())[0]
                                for cell in seen.cells[own]]).mean(0)
            torch.testing.assert_close(found.features[row], mean, atol=1e-5, rtol=1e-4)
            assert found.box[row].tolist() == [*points[own].amin(0).tolist(),
                                               *points[own].amax(0).tolist()]
            assert (pack.vocabulary[found.label[row]], found.expression[row]) == (
                symbol.label,
                place,
            )
            row += 1
    assert len(found.features) == row
    pairs = [(pack.vocabulary[found.label[a]], pack.vocabulary[found.label[b]], RELATIONS[r])
             for (a, b), r in zip(found.pairs, found.relation)]
    assert sorted(pairs) == sorted(p for i in (2, 0, 1) for p in named(pack[i]))
    torch.testing.assert_close(found.pair_features[1],
                               torch.cat([found.features[k] for k in found.pairs[1]]))


def test_symbols_without_ink_are_left_out_with_their_pairs(encoder, make_ink, make_pack):
    ink = make_ink("ab+c", "x")
    bare = ink.symbols[1].__class__("b", ())
    pack = make_pack([Ink(**{**ink.__dict__, "symbols": (ink.symbols[0], bare, *ink.symbols[2:])})])
    found = probes.describe(encoder, pack, [0], VIEW)
    assert [pack.vocabulary[label] for label in found.label] == ["a", "+", "c"]
    assert found.pairs.tolist() == [[1, 2]]


def test_enough_is_whole_aligned_expressions(pack):
    counts = np.diff(pack.flat.symbol_offsets)
    for wanted in (1, 6, 12):
        chosen = probes.enough(pack, range(4), wanted, seed=1)
        assert counts[chosen].sum() >= wanted > counts[chosen[:-1]].sum()
    assert sorted(probes.enough(pack, range(4), 1_000, seed=1)) == [0, 1, 2, 3]
    assert (
        probes.enough(pack, range(4), 9, 1).tolist() == probes.enough(pack, range(4), 9, 1).tolist()
    )
    pack.flat.aligned[2] = False
    assert sorted(probes.enough(pack, range(4), 1_000, seed=1)) == [0, 1, 3]


def test_geometry_forgets_place_and_size_alone():
    box = torch.tensor([[0.0, 0, 2, 1], [3, -1, 4, 0]])
    pairs = np.array([[0, 1], [1, 0]])
    found = probes.geometry(box, pairs)
    expected = (torch.tensor([0.0, 0, 2, 1, 3, -1, 4, 0]) - torch.tensor([2.0, 0] * 4)) / 4
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], expected.roll(4))
    torch.testing.assert_close(probes.geometry(box * 3 + 5, pairs), found)


# --- probes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", [probes.linear_probe, probes.knn_probe])
def test_perfect_features_give_one_and_empty_ones_chance(probe, clusters):
    noise, label, expression = clusters
    train, test = slice(0, 200), slice(200, 400)
    said = torch.cat([noise, 3 * torch.nn.functional.one_hot(torch.from_numpy(label)).float()], 1)
    plain, macro = probes.accuracies(label[test], probe(said[train], label[train], said[test]),
                                     expression[test])
    assert (plain.value, macro.value) == (1, 1)
    plain, macro = probes.accuracies(label[test], probe(noise[train], label[train], noise[test]),
                                     expression[test])
    assert plain.low < 0.25 < plain.high < 0.5
    assert macro.low < 0.25 < macro.high < 0.5
    again = probe(noise[train], label[train], noise[test])
    assert (again == probe(noise[train], label[train], noise[test])).all()


def test_the_linear_probe_is_where_plain_gradient_descent_ends(clusters):
    noise, label, _ = clusters
    x = (noise + torch.from_numpy(np.sin(label)[:, None])).double().numpy()
    classes, target = np.unique(label[:200], return_inverse=True)
    scaled = (x - x[:200].mean(0)) / x[:200].std(0)
    weights, bias = np.zeros((4, 6)), np.zeros(4)
    for _ in range(3_000):
        chance = np.exp(scaled[:200] @ weights.T + bias)
        error = chance / chance.sum(1, keepdims=True) - np.eye(4)[target]
        weights -= 0.3 * (error.T @ scaled[:200] / 200 + 1e-2 * weights)
        bias -= 0.3 * error.mean(0)
    expected = classes[(scaled[200:] @ weights.T + bias).argmax(1)]
    found = probes.linear_probe(torch.from_numpy(x[:200]), label[:200], torch.from_numpy(x[200:]),
                                [1e-2])
    assert (found == expected).mean() > 0.99
    assert len(set(expected)) == 4


def test_the_decay_is_chosen_on_the_last_fifth(clusters):
    """Where the last rows follow another rule than the first, the decay that learns least reads
    them least badly.
    """
    noise, label, _ = clusters
    first, classes = slice(0, 160), np.unique(label)
    x = noise[:200] + 3 * torch.nn.functional.one_hot(
        torch.from_numpy(np.searchsorted(classes, label[:200])), 6
    )
    y = label[:200].copy()
    y[160:] = np.bincount(y[first]).argmax()
    found = [probes.linear_probe(x, y, x, decays) for decays in ((1e-3,), (1e3,), (1e-3, 1e3))]
    assert (found[0][first] == y[first]).mean() > 0.8
    assert len(set(found[1])) == 1
    assert (found[2] == found[1]).all()


def test_knn_in_plain_loops(clusters):
    noise, label, _ = clusters
    x, test = noise[:60] + 3, noise[60:80] + 3
    # no scale, no offset
    found = probes.knn_probe(x * 100, label[:60], test * 100, k=5, temperature=0.2)
    mean, spread = x.mean(0), x.std(0)
    for row, answer in zip(test, found):
        cosine = [torch.cosine_similarity((row - mean) / spread, (other - mean) / spread,
                                          dim=0).item() for other in x]
        votes = {}
        for i in np.argsort(cosine)[-5:]:
            votes[label[i]] = votes.get(label[i], 0) + math.exp(cosine[i] / 0.2)
        assert answer == max(votes, key=votes.get)


def test_accuracies_in_plain_loops():
    truth, said = np.array([5, 5, 5, 8, 8, 2]), np.array([5, 5, 8, 8, 5, 2])
    plain, macro = probes.accuracies(truth, said, np.array([0, 0, 1, 1, 2, 2]))
    assert plain.value == pytest.approx(4 / 6)
    assert macro.value == pytest.approx(np.mean([2 / 3, 1 / 2, 1]))
    assert macro.n == plain.n == 3
    assert 0 <= macro.low < macro.value < macro.high <= 1


def test_intervals_resample_expressions(clusters):
    _, label, expression = clusters
    wrong = np.where(expression % 2, label, 0)  # whole expressions right or wrong
    together = probes.accuracies(label, wrong, expression)
    apart = probes.accuracies(label, wrong, np.arange(400))
    for one, other in zip(together, apart):
        assert one.value == other.value
        assert one.high - one.low > 2 * (other.high - other.low)


# --- a glance -------------------------------------------------------------------------------------

NUMBERS = {f"{name}{end}" for name in ("probe", "position_x", "position_y")
           for end in ("", "_before")}


def test_places_by_hand():
    points = torch.tensor([[2.0, 1], [4, 1], [3, 5], [7, 7], [7, 7]])
    stroke, owner = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 0, 0, 1, 1])
    found = probes.relative_places(InkBatch(points, stroke, owner, 2))
    assert found.tolist() == [[0, 0], [1, 0], [0.5, 1], [0, 0], [0, 0]]


def test_a_glance_gives_numbers_of_both_levels_and_changes_nothing(encoder, pack):
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    numbers = probes.glance(encoder, pack, range(3), range(3, 4), VIEW)
    assert set(numbers) == NUMBERS
    assert all(0 <= numbers[f"probe{end}"] <= 1 for end in ("", "_before"))
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert numbers == probes.glance(encoder, pack, range(3), range(3, 4), VIEW)
    assert probes.glance(encoder, pack, range(3), [], VIEW) == {}


def test_an_encoder_that_knows_its_place_is_found_out(encoder, make_ink, make_pack, monkeypatch):
    """Features that are a cell's place in its own picture, on one level; nothing, on the other."""
    def both(x, valid):
        b, _, h, w = valid.shape
        row, column = torch.meshgrid(torch.arange(h) / (h - 1), torch.arange(w) / (w - 1),
                                     indexing="ij")
        place = torch.stack([column, row]).expand(b, 2, h, w)
        wide = torch.zeros(b, encoder.config.d, h, w)
        wide[:, :2] = place
        return wide, torch.ones(b, encoder.config.widths[-1], h, w)

    monkeypatch.setattr(encoder, "both", both)
    batches = probes._batches
    monkeypatch.setattr(probes, "_batches", lambda pack, indices, *_: batches(pack, indices, 1, 1))
    formulas = [r"x_i^2+1", r"\frac{a}{b}", r"x^2-2", r"\sum_{i=1}^nx", "a+b=2", "1+2"]
    pack = make_pack([make_ink(f, str(k), seed=k) for k, f in enumerate(formulas)])
    numbers = probes.glance(encoder, pack, range(4), range(4, 6), VIEW)
    assert numbers["position_x"] > 0.9
    assert numbers["position_x_before"] < 0.1
