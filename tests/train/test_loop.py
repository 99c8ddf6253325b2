"""The training loop: schedules and pauses change when a run is computed, never what it computes."""

import copy
import itertools
import json
import os
import signal
import threading
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from mmlib.store.files import RunError
from mmlib.store.run import Run
from mmlib.train import health
from mmlib.train import loop as loop_module
from mmlib.train.loop import Loop, Paused, Stopped
from mmlib.train.optimiser import OptimConfig, learning_rate, optimizer
from mmlib.train.stage import accelerator, find_start, half

OPTIM = OptimConfig(lr=0.05, warmup=10, decay=0.25)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """An empty results folder, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "results"))
    yield tmp_path / "results"
    torch.set_num_threads(threads)


# --- learning rate --------------------------------------------------------------------------------


@pytest.mark.parametrize(("pictures", "share"),
                         [(0, 1 / 100), (49, 0.5), (99, 1.0), (100, 1.0), (500, 1.0), (749, 1.0),
                          (750, 1.0), (875, 0.5), (990, 0.04), (1_000, 0.0), (1_100, 0.0)])
def test_the_learning_rate_rises_holds_and_falls(pictures, share):
    config = OptimConfig(lr=2.0, warmup=100, decay=0.25)
    assert learning_rate(pictures, 1_000, config) == pytest.approx(2.0 * share)


def test_the_learning_rate_at_the_edges():
    steady = OptimConfig(lr=1.0, warmup=0, decay=0.0)
    assert [learning_rate(p, 10, steady) for p in (0, 5, 9)] == [1.0, 1.0, 1.0]
    always = OptimConfig(lr=1.0, warmup=0, decay=1.0)
    assert [learning_rate(p, 10, always) for p in (0, 5, 10)] == [1.0, 0.5, 0.0]
    # the warm-up outlasts the run: the lower of the two holds
    short = OptimConfig(lr=1.0, warmup=100, decay=0.5)
    assert learning_rate(15, 20, short) == pytest.approx(0.16)
    assert learning_rate(19, 20, short) == pytest.approx(0.1)


def test_runs_of_two_budgets_share_their_first_rates():
    for pictures in range(0, 750, 50):
        assert learning_rate(pictures, 1_000, OPTIM) == learning_rate(pictures, 4_000, OPTIM)


# --- optimizer ------------------------------------------------------------------------------------


def test_vectors_do_not_decay_slow_modules_are_slow_and_the_frozen_are_left_out():
    fast, slow, frozen = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2).requires_grad_(False)
    groups = optimizer([fast], OPTIM, slow=[slow, frozen], factor=0.1).param_groups
    found = {(tuple(p.shape), g["weight_decay"], g["scale"]) for g in groups for p in g["params"]}
    assert found == {((4, 3), 0.02, 1.0), ((4,), 0.0, 1.0), ((2, 4), 0.02, 0.1), ((2,), 0.0, 0.1)}


# --- a toy run ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    pictures: int = 60
    eval_pictures: int = 20
    seed: int = 0
    optim: OptimConfig = OPTIM


class Numbers(NamedTuple):
    """A batch, as a stage's: it says which expressions it holds."""

    number: int
    x: torch.Tensor

    @property
    def ids(self):
        return (f"expression {self.number}",)

    def to(self, device):
        return self


class Toy:
    """A stage: a regression whose batches, like a Feed's, depend on their number alone; an EMA
    teacher stands beside the student.
    """

    gauge = ""

    def __init__(self, config=Config(), name="toy", step=None, evaluate=None):
        self.config, self.calls = config, (step or self.step, evaluate)
        self.run = Run.open(name, "smoke", config, {"data": "numbers"}, "1")
        self.tools = accelerator()
        torch.manual_seed(config.seed)
        # As in the stages, convolutions lie in memory with the channels last, and checkpoints do
        # not.
        self.model = nn.Sequential(nn.Unflatten(1, (2, 1, 2)), nn.Conv2d(2, 8, (1, 2)),
                                   nn.Flatten(), nn.Tanh(), nn.Linear(8, 1))
        self.model.to(memory_format=torch.channels_last)
        self.teacher = copy.deepcopy(self.model).requires_grad_(False)
        self.seen, self.followed = [], []
        optim = optimizer([self.model[1]], config.optim, slow=[self.model[4]], factor=0.5)
        self.model, optim = self.tools.prepare(self.model, optim)
        self.modules = {"student": self.model, "teacher": self.teacher}
        self.loop = Loop(self.run, self, optim, self.batches, progress=False, log_pictures=1)

    def loss(self, batch, rng, done):
        return self.calls[0](batch, self.loop.pictures)

    def validate(self, done):
        return self.calls[1](self.loop.pictures) if self.calls[1] else {}

    def early(self):
        return {}

    def batches(self, start):
        for number in itertools.count(start):
            x = torch.from_numpy(
                np.random.default_rng(number).normal(size=(3 + number % 3, 4)).astype(np.float32)
            )
            yield len(x), Numbers(number, x)

    def step(self, batch, pictures):
        number, x = batch
        self.seen.append((number, pictures))
        loss = (self.model(x)[:, 0].float() - x.sum(1)).square().mean()
        return loss, {"size": float(len(x))}

    @torch.no_grad()
    def after_step(self, done):
        self.followed.append(self.loop.pictures)
        for old, new in zip(self.teacher.parameters(), self.model.parameters()):
            old.lerp_(new, 0.1)

    def train(self, **limits):
        with self.run.lock():
            return self.loop.train(**limits)

    def weights(self):
        return [p.detach().clone() for p in (*self.model.parameters(), *self.teacher.parameters())]

    def rows(self):
        return [{k: v for k, v in row.items() if k != "minutes"} for row in self.run.metrics()]


def elsewhere(monkeypatch, tmp_path, name):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / name))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.weights(), b.weights(), strict=True))


def test_a_run_sees_its_budget_and_learns():
    toy = Toy()
    summary = toy.train()
    sizes = [3 + n % 3 for n, _ in toy.seen]
    assert [n for n, _ in toy.seen] == list(range(len(sizes)))
    assert [p for _, p in toy.seen] == toy.followed == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sum(sizes[:-1]) < 60 <= sum(sizes)
    assert summary == {"pictures": sum(sizes), "steps": len(sizes), "skipped": 0, "rewound": 0}
    rows = toy.rows()
    assert [r["step"] for r in rows] == list(range(1, len(sizes) + 1))
    assert [r["lr"] for r in rows] == [learning_rate(p, 60, OPTIM) for _, p in toy.seen]
    assert [r["size"] for r in rows] == sizes
    assert np.mean([r["loss"] for r in rows[-4:]]) < 0.6 * np.mean([r["loss"] for r in rows[:4]])


def test_the_bar_ends_at_its_total_where_the_last_batch_passes_it(capsys):
    toy = Toy(replace(Config(), pictures=50))
    toy.loop.progress = True
    assert toy.train()["pictures"] == 51
    assert "50/50" in capsys.readouterr().err.split("\r")[-1]


@pytest.mark.parametrize("piece", [1, 4])
def test_pauses_change_nothing(tmp_path, monkeypatch, piece):
    whole = Toy()
    whole.train()
    elsewhere(monkeypatch, tmp_path, "other")
    for _ in range((len(whole.seen) - 1) // piece):
        toy = Toy()
        with pytest.raises(Paused, match=rf"{toy.run.name}: paused at .* of 60 pictures"):
            toy.train(max_steps=piece)
        assert len(toy.seen) == piece
    toy = Toy()
    summary = toy.train(max_steps=piece)
    assert same(whole, toy)
    assert whole.rows() == toy.rows()
    assert summary["steps"] == len(whole.seen)


def test_a_run_is_not_gone_on_with_by_another_number_of_processes(monkeypatch):
    """Its steps would be counted in other batches."""
    with pytest.raises(Paused):
        Toy().train(max_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr("accelerate.Accelerator.num_processes", 2)
        with pytest.raises(RunError, match="was paused with 1 process and cannot go on with 2"):
            Toy().train()
    Toy().train()


def test_logged_means_are_over_the_steps_since_the_last_row():
    toy = Toy(replace(Config(), pictures=600))
    toy.loop.log_pictures = 15
    toy.train()
    sizes = [3 + n % 3 for n, _ in toy.seen]
    rows = np.cumsum(sizes) // 15
    assert [r["size"] for r in toy.rows()] == pytest.approx(
        [
            np.mean([s for s, k in zip(sizes, before) if k == row])
            for before in [[0, *rows[:-1]]]
            for row in range(rows[-1])
        ]
    )


def test_a_time_limit_pauses_after_a_step():
    toy = Toy()
    with pytest.raises(Paused):
        toy.train(max_minutes=0)
    assert len(toy.seen) == 1
    assert not toy.run.done


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    whole = Toy()
    whole.train()
    elsewhere(monkeypatch, tmp_path, "other")

    def dying(batch, pictures):
        if batch[0] == 7:
            raise MemoryError
        return toy.step(batch, pictures)

    toy = Toy(step=dying)
    toy.loop.checkpoint_minutes = 0  # after every step
    with pytest.raises(MemoryError):
        toy.train()
    again = Toy()
    again.train()
    assert again.seen[0][0] == 7
    assert same(whole, again)
    assert whole.rows() == again.rows()


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_with_a_checkpoint(tmp_path, monkeypatch, number):
    whole = Toy()
    whole.train()
    elsewhere(monkeypatch, tmp_path, "other")
    before = signal.getsignal(number)

    def signalled(batch, pictures):
        if batch[0] == 3:
            os.kill(os.getpid(), number)
        return toy.step(batch, pictures)

    toy = Toy(step=signalled)
    with pytest.raises(Stopped, match="goes on from here"):
        toy.train()
    assert len(toy.seen) == 4
    assert signal.getsignal(number) is before
    again = Toy()
    again.train()
    assert again.seen[0][0] == 4
    assert same(whole, again)


def test_a_thread_can_train():
    summary = {}
    thread = threading.Thread(target=lambda: summary.update(Toy().train()))
    thread.start()
    thread.join()
    assert summary["pictures"] >= 60


# --- gradients that are not finite ----------------------------------------------------------------


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted():
    before = {}

    def poisoned(batch, pictures):
        loss, numbers = toy.step(batch, pictures)
        if batch[0] == 4:
            before["weights"] = [p.detach().clone() for p in toy.model.parameters()]
            return loss * float("nan"), numbers
        if batch[0] == 5:
            before["after"] = [p.detach().clone() for p in toy.model.parameters()]
        return loss, numbers

    toy = Toy(step=poisoned)
    assert toy.train()["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before["weights"], before["after"]))
    rows = toy.rows()
    assert [r["skipped"] for r in rows[3:6]] == [0, 1, 1]
    assert rows[4]["loss"] is None
    assert all(torch.isfinite(w).all() for w in toy.weights())


def test_a_run_that_only_diverges_ends():
    toy = Toy(Config(pictures=200), step=lambda batch,
              _: (toy.model(batch[1]).sum() * float("inf"), {}))
    with pytest.raises(RunError, match=rf"{toy.run.name}.*not finite.*skipped\.json"):
        toy.train()


def test_what_diverged_is_named_by_its_expressions_over_all_sittings(monkeypatch):
    monkeypatch.setattr(loop_module, "MOST_SKIPPED", 2)

    def bad(batch, pictures):
        loss, numbers = toy.step(batch, pictures)
        return loss * (float("inf") if batch[0] in (2, 5, 7) else 1.0), numbers

    for limit in (4, 2, None):
        toy = Toy(step=bad)
        with pytest.raises(RunError if limit is None else Paused):
            toy.train(max_steps=limit)
    found = json.loads((toy.run.folder / "skipped.json").read_text())
    assert [(row["step"], row["ids"]) for row in found] == [
        (k, [f"expression {k}"]) for k in (2, 5, 7)
    ]


def test_an_infinite_loss_with_a_finite_gradient_is_skipped():
    def poisoned(batch, pictures):
        loss, numbers = toy.step(batch, pictures)
        return loss + (float("inf") if batch[0] == 4 else 0.0), numbers

    toy = Toy(step=poisoned)
    assert toy.train()["skipped"] == 1


@pytest.mark.parametrize("limit", [1, 7])
def test_a_pause_between_two_rows_of_the_curves_leaves_no_trace_in_them(
    tmp_path, monkeypatch, limit
):
    config = Config(pictures=600)
    whole = Toy(config)
    whole.loop.log_pictures = 50
    whole.train()
    elsewhere(monkeypatch, tmp_path, "other")
    toy = Toy(config)
    toy.loop.log_pictures = 50
    with pytest.raises(Paused):
        toy.train(max_steps=limit)
    toy = Toy(config)
    toy.loop.log_pictures = 50
    toy.train()
    assert whole.rows() == toy.rows()


def test_the_global_generator_goes_on_where_it_was(tmp_path, monkeypatch):
    """As for dropout: a resumed run draws what the uninterrupted one would have."""
    def noisy(batch, pictures):
        loss, _ = toy.step(batch, pictures)
        return loss, {"drawn": float(torch.rand(()))}

    toy = Toy(step=noisy)
    toy.train()
    rows = toy.rows()
    elsewhere(monkeypatch, tmp_path, "other")
    toy = Toy(step=noisy)
    with pytest.raises(Paused):
        toy.train(max_steps=3)
    toy = Toy(step=noisy)
    torch.rand(7)
    toy.train()
    assert toy.rows() == rows


def test_a_collapse_is_said_aloud_with_the_number(monkeypatch):
    monkeypatch.setattr(health, "EARLY", 0)
    toy = Toy(evaluate=lambda pictures: {"spread": 0.001 if pictures >= 40 else 0.5})
    with pytest.warns(
        UserWarning, match=r"collapsed at 4. pictures: the embeddings .* spread is 0\.001,"
    ) as said:
        toy.train()
    assert len(said) == 2  # at 40 and at the end


# --- trainings that blow up -----------------------------------------------------------------------


def blowing(toy, at, times=1, factor=1e3):
    """A step that wrecks the weights from batch `at` on, until the loop went back `times` times."""

    def step(batch, pictures):
        if batch[0] >= at and len(toy().loop.counts["rewound"]) < times:
            with torch.no_grad():
                toy().model[4].weight.mul_(factor)
        loss, numbers = toy().step(batch, pictures)
        return loss + 3, numbers  # it does not fall to nothing, so its median stands still

    return step


@pytest.fixture
def soon(monkeypatch):
    """Jumps are seen after a few steps."""
    for name, value in {"WINDOW": 40, "RECENT": 6, "SAFE": 8}.items():
        monkeypatch.setattr(loop_module, name, value)


def test_a_jump_of_the_loss_goes_back_and_on_with_other_data(soon):
    toy = Toy(Config(pictures=400), step=blowing(lambda: toy, at=60))
    with pytest.warns(UserWarning, match=r"jumped from 3\.\d\d to .*gone back to .* pictures"):
        summary = toy.train()
    (note,) = toy.loop.counts["rewound"]
    assert summary["rewound"] == 1
    assert note["back"] <= note["step"] - loop_module.SAFE
    numbers = [n for n, _ in toy.seen]
    assert numbers == sorted(set(numbers))  # no batch twice
    assert summary["steps"] == len(numbers) - (note["step"] - note["back"])
    steps = [row["step"] for row in toy.rows()]
    assert steps == sorted(steps)
    assert [row["rewound"] for row in toy.rows() if "rewound" in row] == [1]
    assert all(w.abs().max() < 100 for w in toy.weights())


@pytest.mark.parametrize("more", [0, 20])
def test_a_run_that_went_back_can_be_paused(soon, tmp_path, monkeypatch, more):
    """Soon after, too: it does not go on from a checkpoint of the course that it gave up."""
    whole = toy = Toy(Config(pictures=400), step=blowing(lambda: toy, at=60))
    with pytest.warns(UserWarning, match="gone back"):
        whole.train()
    (note,) = whole.loop.counts["rewound"]
    elsewhere(monkeypatch, tmp_path, "other")
    toy = Toy(Config(pictures=400), step=blowing(lambda: toy, at=60))
    with pytest.warns(UserWarning, match="gone back"), pytest.raises(Paused):
        toy.train(max_steps=note["step"] + 1 + more)
    toy = Toy(Config(pictures=400), step=blowing(lambda: toy, at=60))
    toy.train()
    assert toy.seen[0][0] == note["step"] + 1 + more
    assert same(whole, toy)
    assert whole.rows() == toy.rows()


def test_a_run_that_blows_up_again_and_again_ends(soon):
    toy = Toy(Config(pictures=400), step=blowing(lambda: toy, 60, 99, factor=3))
    message = r"jumped .* after 5 jumps .*lower the learning rate"
    with pytest.warns(UserWarning, match="gone back"), pytest.raises(RunError, match=message):
        toy.train()
    assert not toy.run.done


def test_a_loss_that_is_only_noisy_is_no_jump():
    """Losses as measured in batches of a few expressions, in medians; and a spike now and then."""
    toy, rng = Toy(), np.random.default_rng(0)
    shares = [0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 1]
    levels = [0.16, 0.37, 0.65, 1, 1.5, 1.82, 1.96, 2.52]
    noise = np.interp(rng.random(20_000), shares, levels)
    noise[rng.random(20_000) < 0.002] *= 1e6
    assert not any(toy.loop._jumped(float(value)) for value in noise)
    assert any(toy.loop._jumped(float(2.5 * value)) for value in noise[:20])


@pytest.mark.parametrize(("gauge", "numbers", "good"), [
    ("match", [0.4, 0.5, 0.45], True), ("match", [0.4, 0.5, 0.38], False),
    ("-ter", [0.9, 0.8, 0.85], True), ("-ter", [0.9, 0.6, 0.9], False), ("", [0.4, 0.5, 0.1], True),
])
def test_a_run_far_worse_than_its_best_is_not_finished(gauge, numbers, good):
    validations = iter(numbers)
    toy = Toy(evaluate=lambda pictures: {gauge.strip("-") or "x": next(validations)})
    toy.gauge = gauge
    if good:
        assert toy.train()["rewound"] == 0
    else:
        with pytest.raises(RunError, match="is not finished: its last validation"):
            toy.train()


@pytest.mark.parametrize(("pictures", "share"), [
    (10, 0.1), (100, 1.0), (200, 1.0), (800, 0.5), (1_800, 1 / 3),
])
def test_a_rate_with_a_hold_falls_as_the_root(pictures, share):
    config = OptimConfig(lr=1.0, warmup=100, decay=0.1, hold=200)
    found = learning_rate(pictures, 2_500, config)
    assert found == pytest.approx(share, rel=0.11 if pictures == 10 else 1e-6)


# --- validation -----------------------------------------------------------------------------------


def test_evaluation_every_so_many_pictures_and_at_the_end():
    validated = []

    def evaluate(pictures):
        validated.append(pictures)
        assert not torch.is_grad_enabled()
        assert not toy.model.training
        return {"score": pictures / 100}

    toy = Toy(evaluate=evaluate)
    summary = toy.train()
    ends = list(itertools.accumulate(3 + n % 3 for n, _ in toy.seen))
    assert validated == [next(p for p in ends if p >= 20), next(p for p in ends if p >= 40),
                         ends[-1]]
    assert summary["score"] == validated[-1] / 100
    assert [r["valid_score"] for r in toy.rows() if "valid_score" in r] == [
        p / 100 for p in validated
    ]
    assert toy.model.training
    plain = Toy(name="plain")
    plain.train()
    assert same(plain, toy)  # validation changes nothing


# --- what a run keeps and starts from -------------------------------------------------------------


def test_half_precision_keeps_integers():
    state = half({"w": torch.tensor([1.5, 1e-3]), "n": torch.tensor([70_000])})
    assert state["w"].dtype == torch.float16
    assert state["n"].tolist() == [70_000]


def test_half_precision_spares_running_variances():
    state = half({"norm.weight": torch.ones(2), "norm.running_var": torch.tensor([1e-9, 1e6])})
    assert state["norm.weight"].dtype == torch.float16
    assert torch.equal(state["norm.running_var"], torch.tensor([1e-9, 1e6]))


def test_the_run_to_start_from():
    assert find_start("none") is None
    toy = Toy()
    toy.train()
    toy.run.finish()
    assert find_start(toy.run.name).done
    with pytest.raises(FileNotFoundError, match=f"{toy.run.name} has no weights here"):
        find_start(toy.run.name).load_weights()
    with pytest.raises(RunError, match="toy-smoke-missing"):
        find_start("toy-smoke-missing")
