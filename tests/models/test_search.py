"""Reading: prefixes by hand, beam search against plain uncached references."""

import math
import threading

import pytest
import torch
from helpers import complete

from mmlib.formula.vocabulary import Vocabulary
from mmlib.formula.wellformed import END, START, after, allowed, distance, kind
from mmlib.models.recogniser import Recogniser
from mmlib.models.search import (
    MARGIN,
    SCORED,
    SINGLE,
    Hypothesis,
    _score,
    beam_search,
    both_directions,
    few_rows,
    prefixes,
)
from mmlib.train.profiles import TINY

VOCABULARY = Vocabulary(["a", "b", "c"])
PAD, SOS, EOS, UNK = VOCABULARY.pad, VOCABULARY.sos, VOCABULARY.eos, VOCABULARY.unk
A, B, C = VOCABULARY.encode("abc")


def test_prefixes_by_hand():
    tokens = torch.tensor([[A, B, C], [B, PAD, PAD]])
    inputs, targets = prefixes(tokens, VOCABULARY)
    assert inputs.tolist() == [[[SOS, A, B, C], [EOS, C, B, A]],
                               [[SOS, B, PAD, PAD], [EOS, B, PAD, PAD]]]
    assert targets.tolist() == [[[A, B, C, EOS], [C, B, A, SOS]],
                                [[B, EOS, PAD, PAD], [B, SOS, PAD, PAD]]]


def test_an_empty_label_is_its_end():
    inputs, targets = prefixes(torch.tensor([[PAD]]), VOCABULARY)
    assert inputs.tolist() == [[[SOS, PAD], [EOS, PAD]]]
    assert targets.tolist() == [[[EOS, PAD], [SOS, PAD]]]


def test_both_directions_reverse_what_counts():
    values, length = torch.tensor([[5, -1, 7, 0], [3, 4, 9, 9]]), torch.tensor([[4], [2]])
    assert both_directions(values, length).tolist() == [[[5, -1, 7, 0], [0, 7, -1, 5]],
                                                        [[3, 4, 9, 9], [4, 3, 9, 9]]]


# --- search ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[5, 2])
def reader(request):
    """A random model that mostly ends what it writes (5), and one that in one direction does not
    (2).
    """
    torch.manual_seed(request.param)
    model = Recogniser(len(VOCABULARY), TINY).eval()
    with torch.no_grad():
        model.decoder.embed.weight.mul_(20)  # what was written matters
        model.decoder.logits.weight.mul_(3)  # pointed distributions
    return model


def memory_of(reader, b=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return reader.encode(torch.rand(b, 1, 16, 32, generator=rng), torch.ones(b, 1, 2, 4)).memory


def alone(memory, picture):
    """The memory of one picture of a batch."""
    part = type(memory)(*(getattr(memory, f)[picture : picture + 1]
                          for f in ("features", "position", "bias")))
    return part


@torch.no_grad()
def log_probabilities(reader, memory, prefix):
    logits, _ = reader.decoder(torch.tensor([prefix]), memory)
    return logits[0, -1].log_softmax(-1).tolist()


def may_follow(vocabulary, written, token, backwards, longest):
    """Whether what was written and this token can become an expression of at most
    `longest` tokens.
    """
    if token in (PAD, UNK):
        return False
    ends = token == (SOS if backwards else EOS)
    state = START
    for t in [*written, *([] if ends else [token])]:
        if kind(vocabulary.tokens[t]) not in allowed(state, backwards):
            return False
        state = after(state, kind(vocabulary.tokens[t]), backwards)
    if ends:
        return END in allowed(state, backwards)
    return len(written) + 1 + distance(state, backwards) <= longest


def slow_beams(reader, memory, beam, longest, both=True, vocabulary=VOCABULARY):
    """Plain beam search of one picture, whole prefixes and no cache: texts in reading order.

    A direction's beams are (score, prefix, ended). The search is over when none is left that has
    neither ended nor fallen behind the best that has by MARGIN, and with the longest prefix all
    end; those that ended are kept.
    """
    marks = [(SOS, EOS), (EOS, SOS)][: 1 + both]
    directions = [[(0.0, [start], False)] for start, _ in marks]
    for _ in range(longest + 1):
        over = True
        for d, (start, end) in enumerate(marks):
            grown = []
            for score, prefix, ended in directions[d]:
                if ended:
                    grown.append((score, prefix, True))
                    continue
                step = log_probabilities(reader, memory, prefix)
                grown += [(score + step[t], [*prefix, t], t == end) for t in range(len(vocabulary))
                          if t != start and may_follow(vocabulary, prefix[1:], t, d == 1, longest)]
            directions[d] = sorted(grown, key=lambda g: -g[0])[:beam]
            best = max((score for score, _, ended in directions[d] if ended), default=-math.inf)
            over &= all(ended or score < best - MARGIN for score, _, ended in directions[d])
        if over:
            break
    texts = set()
    for d, beams in enumerate(directions):
        whole = [prefix for _, prefix, ended in beams if ended]
        texts |= {tuple(t for t in prefix if t > UNK)[:: -1 if d else 1] for prefix in whole}
    return texts


def slow_score(reader, memory, text, both=True):
    """Mean log-probability a token, end included, averaged over the directions."""
    means = []
    for start, end, order in ((SOS, EOS, list(text)), (EOS, SOS, list(text)[::-1]))[: 1 + both]:
        total = sum(log_probabilities(reader, memory, [start, *order[:i]])[t]
                    for i, t in enumerate([*order, end]))
        means.append(total / (len(text) + 1))
    return sum(means) / len(means)


@torch.no_grad()
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_beam_search_is_the_plain_one(reader, seed, beam, both):
    memory, longest = memory_of(reader, seed=seed), 6
    found = beam_search(reader, memory, VOCABULARY, beam, longest, both)
    assert len(found) == 3
    for picture in range(3):
        own = alone(memory, picture)
        expected = slow_beams(reader, own, beam, longest, both)
        assert {h.tokens for h in found[picture]} == expected
        assert len(found[picture]) == len(expected)  # no repeats
        scores = [h.score for h in found[picture]]
        assert scores == sorted(scores, reverse=True)
        for h in found[picture]:
            assert h.score == pytest.approx(slow_score(reader, own, h.tokens, both), abs=1e-4)


@pytest.fixture(scope="module")
def structured():
    """A random model whose vocabulary has braces, scripts, fractions and roots."""
    torch.manual_seed(7)
    vocabulary = Vocabulary(["a", "b", "{", "}", "[", "]", "^", "_", r"\frac", r"\sqrt"])
    model = Recogniser(len(vocabulary), TINY).eval()
    with torch.no_grad():
        model.decoder.embed.weight.mul_(20)
        model.decoder.logits.weight.mul_(3)
    return model, vocabulary


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("longest", [1, 3, 12])
def test_every_reading_is_an_expression(structured, beam, longest):
    model, vocabulary = structured
    memory = memory_of(model, b=4, seed=3)
    for picture, found in enumerate(beam_search(model, memory, vocabulary, beam, longest)):
        expected = slow_beams(model, alone(memory, picture), beam, longest, vocabulary=vocabulary)
        assert {h.tokens for h in found} == expected
        for h in found:
            assert complete([vocabulary.tokens[t] for t in h.tokens])
            assert len(h.tokens) <= longest


@torch.no_grad()
def test_a_beam_of_one_is_greedy(reader):
    memory = memory_of(reader, seed=1)
    for picture, found in enumerate(beam_search(reader, memory, VOCABULARY, 1, 8, both=False)):
        own, prefix = alone(memory, picture), [SOS]
        for _ in range(9):
            step = log_probabilities(reader, own, prefix)
            legal = [t for t in range(len(VOCABULARY)) if t not in (PAD, UNK, SOS)]
            best = max([t for t in legal if t != EOS or len(prefix) > 1], key=step.__getitem__)
            if best == EOS or len(prefix) > 8:
                break
            prefix.append(best)
        assert [h.tokens for h in found] == [tuple(prefix[1:])]


@torch.no_grad()
def test_a_wide_beam_finds_the_best_of_all(reader):
    """With room for one letter and its end, and for more beams than there are texts, all three
    texts are found.
    """
    memory = memory_of(reader, b=1)
    (found,) = beam_search(reader, memory, VOCABULARY, 20, 1)
    exact = {text: slow_score(reader, memory, text) for text in [(A,), (B,), (C,)]}
    assert {h.tokens for h in found} == exact.keys()
    assert found[0].tokens == max(exact, key=exact.get)
    for h in found:
        assert h.score == pytest.approx(exact[h.tokens], abs=1e-4)


@torch.no_grad()
def test_the_best_alone_is_the_best_of_all(reader):
    left_out = 0
    for seed in range(4):
        memory = memory_of(reader, b=4, seed=seed)
        whole = beam_search(reader, memory, VOCABULARY, 4, 6)
        for every, few in zip(whole, beam_search(reader, memory, VOCABULARY, 4, 6, best=True)):
            assert few[0].tokens == every[0].tokens
            assert few[0].score == pytest.approx(every[0].score, abs=1e-5)
            assert {h.tokens for h in few} <= {h.tokens for h in every}
            left_out += len(every) - len(few)
    assert left_out > 0


@torch.no_grad()
def test_nothing_special_is_read(reader):
    for hypotheses in beam_search(reader, memory_of(reader, b=4, seed=2), VOCABULARY, 5, 7):
        assert hypotheses
        for h in hypotheses:
            assert isinstance(h, Hypothesis)
            assert set(h.tokens) <= {A, B, C}
            assert len(h.tokens) <= 8
            assert math.isfinite(h.score)
            assert h.score < 0


@torch.no_grad()
def test_companions_do_not_matter(reader):
    memory = memory_of(reader)
    together = beam_search(reader, memory, VOCABULARY, 3, 6)
    for picture in range(3):
        (own,) = beam_search(reader, alone(memory, picture), VOCABULARY, 3, 6)
        assert [h.tokens for h in own] == [h.tokens for h in together[picture]]


@torch.no_grad()
def test_several_memories_are_each_searched_and_all_score(reader):
    """A picture seen in two ways: the best hypotheses of both searches, each scored by the mean of
    the two.
    """
    memories = [memory_of(reader, seed=seed) for seed in (0, 3)]
    found = beam_search(reader, memories, VOCABULARY, 2, 6)
    apart = [beam_search(reader, memory, VOCABULARY, 2, 6) for memory in memories]
    apart_by = 0.0
    for picture, hypotheses in enumerate(found):
        texts = [{h.tokens for h in one[picture][:2]} for one in apart]
        assert {h.tokens for h in hypotheses} == texts[0] | texts[1]
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for h in hypotheses:
            each = [slow_score(reader, alone(memory, picture), h.tokens) for memory in memories]
            apart_by = max(apart_by, abs(each[0] - each[1]))
            assert h.score == pytest.approx(sum(each) / 2, abs=1e-4)
    assert apart_by > 0.01
    assert [
        [h.tokens for h in one] for one in beam_search(reader, memories[:1], VOCABULARY, 2, 6)
    ] == [[h.tokens for h in one] for one in apart[0]]


@torch.no_grad()
def test_scores_do_not_depend_on_how_many_are_computed_at_once(reader, monkeypatch):
    memory = memory_of(reader, b=4, seed=1)
    whole = beam_search(reader, memory, VOCABULARY, 3, 6)
    passes, decoder = [], reader.decoder.forward
    monkeypatch.setattr(reader.decoder, "forward", lambda ids, here, *cache: (
        passes.append(len(here.features)) if not cache else None, decoder(ids, here, *cache))[1])
    monkeypatch.setitem(SCORED, "cpu", 1)
    single = beam_search(reader, memory, VOCABULARY, 3, 6)
    assert passes
    assert set(passes) == {1}
    for one, other in zip(single, whole, strict=True):
        assert {h.tokens: pytest.approx(h.score, abs=1e-5) for h in one} == {
            h.tokens: h.score for h in other
        }


@pytest.mark.parametrize(("b", "expected"), [(2, torch.float32), (SINGLE, torch.bfloat16)])
def test_few_rows_step_in_float32_where_all_else_is_bfloat16(reader, b, expected):
    found = {"step": set(), "whole": set()}
    hook = reader.decoder.logits.register_forward_hook(
        lambda layer, inputs, logits: found["step" if logits.shape[1] == 1 else "whole"].add(
            logits.dtype
        )
    )
    try:
        with torch.autocast("cpu", torch.bfloat16):
            beam_search(reader, memory_of(reader, b), VOCABULARY, beam=2, longest=6)
            assert torch.is_autocast_enabled("cpu")
    finally:
        hook.remove()
    assert found == {"step": {expected}, "whole": {torch.bfloat16}}


def test_a_thread_that_reads_changes_no_number_of_threads(reader):
    """The number is the whole process's: two readings at once would each put back what the other
    had set.
    """
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        def read():
            with few_rows(1, memory_of(reader, 1)):
                seen.append(torch.get_num_threads())

        with few_rows(1, memory_of(reader, 1)):
            assert torch.get_num_threads() == 1
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        assert seen == [2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_a_pass_of_scores_is_as_small_as_it_is_said_to_be(reader, monkeypatch):
    sizes, decoder = [], reader.decoder.forward
    monkeypatch.setattr(reader.decoder, "forward",
                        lambda ids, *rest: (sizes.append(ids.shape), decoder(ids, *rest))[1])
    monkeypatch.setitem(SCORED, "cpu", 60)
    texts = [(A,), *[(A,) * 18] * 3, *[(B,) * 5] * 4]
    found = [{text: [math.nan, math.nan]} for text in texts]
    _score(reader, memory_of(reader, len(texts)), VOCABULARY, found)
    assert not any(math.isnan(total) for sums in found for totals in sums.values()
                   for total in totals)
    assert sorted(rows * tokens for rows, tokens in sizes) == [38, 38, 38, 60]
