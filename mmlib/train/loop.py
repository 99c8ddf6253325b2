"""The training loop of all stages: checkpoints, exact resume, limits that only pause.

The budget unit is the picture seen. Schedules depend on it alone, so a limit or a signal pauses a
run and never reshapes it: the resumed run ends exactly as the uninterrupted one would have.

A training that blows up is caught. If the loss jumps far over its running median, the weights go
back to a checkpoint from before the jump. The batches go on, so that the data come in another
order. And no run is finished whose last validation is far worse than its best.
"""

import json
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from mmlib.store.files import RunError, write_atomic
from mmlib.store.run import Run
from mmlib.train.health import collapsed
from mmlib.train.optimiser import learning_rate

LossAndNumbers = tuple[Tensor, dict[str, Any]]  # a scalar to minimise, and numbers to log
MOST_SKIPPED = 20  # steps without a finite loss and gradient, after which a run ends
WINDOW = 200  # steps over which the loss's running median is taken
# The loss has jumped when its mean over the last `RECENT` steps is over `JUMP` times the running
# median; a step counts `SPIKE` times the median at most. Batches of a few expressions differ: a
# seventh of their losses lies over 1.75 medians.
RECENT, JUMP, SPIKE = 24, 1.75, 3.0
SAFE = 60  # steps before a jump is seen from which on a checkpoint may hold what led to it
MOST_REWOUND = 5  # jumps after which a run ends
EARLY = 100  # steps after which a stage says what became of its start
FAR_WORSE = 0.2  # share of the best validation by which the last may be worse


class Paused(RuntimeError):
    """A limit or a signal stopped the run; the same command goes on from its checkpoint."""


class Stopped(Paused):
    """It was a signal."""


@dataclass
class Loop:
    """State and services of one training.

    stage: a `Stage`, built; it says what is trained, by which loss and for how long.
    batches(start) yields (pictures in the batch, batch) from batch number `start` on, endless and
    deterministic.
    """

    run: Run
    stage: Any
    optimizer: torch.optim.Optimizer
    batches: Callable[[int], Generator[tuple[int, Any]]]
    checkpoint_minutes: float = 3.0
    progress: bool = True
    log_pictures: int = 300  # between two rows of the curves; a budget below 12,000 has 40 rows
    step: int = 0
    pictures: int = 0
    # What the next row of the curves is a mean over, the steps that were skipped, the last losses,
    # the jumps that were rewound, the batches left behind by these, and the early numbers. They are
    # in the checkpoint, so that a resumed run does what the uninterrupted one would have.
    counts: dict[str, Any] = field(default_factory=lambda: {
        "sums": {}, "skipped": [], "losses": [], "rewound": [], "ahead": 0, "early": {}})

    def __post_init__(self) -> None:
        self.accelerator, self.config = self.stage.tools, self.stage.config
        self.modules, self.total = self.stage.modules, self.config.pictures

    @property
    def done(self) -> float:
        """The share of the budget that is spent."""
        return min(1.0, self.pictures / self.total)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; the same whatever the number of processes."""
        bare = self.accelerator.unwrap_model
        return {
            "modules": {k: bare(m).state_dict() for k, m in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "counts": self.counts,
            "pictures": self.pictures,
            "processes": self.accelerator.num_processes,
        }

    def resume(self) -> None:
        """Go on from the run's checkpoint if it has one.

        Raises RunError if another number of processes wrote it: steps would be counted in other
        batches.
        """
        found = self.run.resume()
        if found is None:
            return
        theirs, ours = found[1]["processes"], self.accelerator.num_processes
        if theirs != ours:
            raise RunError(f"{self.run.name} was paused with {theirs} process"
                           f"{'es' * (theirs > 1)} and cannot go on with {ours}: start as many "
                           "again, or delete its folder to begin anew")
        self._restore(*found)

    def _restore(self, step: int, state: dict[str, Any]) -> None:
        for key, module in self.modules.items():
            self.accelerator.unwrap_model(module).load_state_dict(state["modules"][key])
        self.optimizer.load_state_dict(state["optimizer"])
        # A checkpoint holds tensors in their logical order; the fused optimiser pairs a parameter
        # with its moments by their place in memory, so these must lie as it does (channels last).
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        torch.set_rng_state(state["rng"])
        self.step, self.counts, self.pictures = step, state["counts"], state["pictures"]

    def train(self, max_minutes: float | None = None, max_steps: int | None = None
              ) -> dict[str, float]:
        """Run to the end of the budget; returns the last validation.

        Raises Paused at a limit or on SIGINT or SIGTERM, and RunError if the training came apart.
        """
        self.resume()
        made, began, saved = 0, time.monotonic(), time.monotonic()
        last: dict[str, float] = {}
        stop = threading.Event()
        previous = _catch_signals(stop)
        batches = self.batches(self.step + self.counts["ahead"])
        bar = self._bar()
        try:
            if self.step == 0:
                self._look_early()
            for count, batch in batches:
                if self.pictures >= self.total:
                    break
                before, (loss, rate) = self.pictures, self._make_step(count, batch)
                made += 1
                # The last batch may pass the total, and a bar beyond its total loses it.
                bar.update(min(count, self.total - before))
                # All processes go back, or none: each has seen only its share of the batch.
                if self._agreed(self._jumped(loss), made):
                    self._rewind()
                    bar.n = self.pictures
                    continue
                if self._passed(before, max(1, min(self.log_pictures, self.total // 40)), end=True):
                    bar.set_postfix(loss=f"{self._log(rate):.3f}")
                if self._passed(before, self.config.eval_pictures):
                    last = self._validate()
                if self.step == EARLY:
                    self._look_early()
                now = time.monotonic()
                late = max_minutes is not None and now - began > 60 * max_minutes
                out = self._agreed(stop.is_set() or late, made)
                out |= max_steps is not None and made >= max_steps
                due = out or now - saved > 60 * self.checkpoint_minutes
                due |= len(self.counts["losses"]) == WINDOW // 2  # what a first jump goes back to
                if due and self.pictures < self.total:
                    self.run.save_checkpoint(self.step, self.state())
                    saved = now
                    if out:
                        how = Stopped if stop.is_set() else Paused
                        raise how(f"{self.run.name}: paused at {self.pictures:,} of {self.total:,} "
                                  "pictures; the same command goes on from here")
            last = self._validate()
            self._compare(last)
        finally:
            bar.close()
            batches.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        counted = {key: len(self.counts[key]) for key in ("skipped", "rewound")}
        ends = {"pictures": self.pictures, "steps": self.step}
        return {**last, **self.counts["early"], **ends, **counted}

    def _bar(self) -> Any:
        """The progress bar, which says where the training runs."""
        from tqdm.auto import tqdm

        shown = self.progress and self.accelerator.is_main_process
        where = self.accelerator.device.type
        where = f"threads: {torch.get_num_threads()}" if where == "cpu" else where
        return tqdm(total=self.total, initial=self.pictures, unit="pic", mininterval=2,
                    desc=f"{self.run.stage} ({where})", disable=not shown)

    def _passed(self, before: int, every: int, end: bool = False) -> bool:
        """Whether the last step passed a multiple of `every` pictures, or `end` at the end."""
        if self.pictures >= self.total:
            return end
        return before // every != self.pictures // every

    def _make_step(self, count: int, batch: Any) -> tuple[float, float]:
        """One step of the optimiser on a batch of `count` pictures: its loss and learning rate."""
        stage, optim = self.stage, self.config.optim
        rate = learning_rate(self.pictures, self.total, optim)
        for group in self.optimizer.param_groups:
            risen = min(1.0, self.pictures / group["ramp"]) if group["ramp"] else 1.0
            group["lr"] = rate * group["scale"] * risen
        # Of the pictures seen alone: a run that was stopped draws what an unbroken one draws.
        rng = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.pictures)
        with self.accelerator.autocast():
            loss, numbers = stage.loss(batch.to(self.accelerator.device), rng, self.done)
        self.accelerator.backward(loss)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, optim.clip)
        # Several processes have one gradient and each its own loss, and must do the same.
        finite = norm if self.accelerator.num_processes > 1 else norm + loss.detach()
        if torch.isfinite(finite):
            self.optimizer.step()
        else:
            self._skip(batch)
        self.optimizer.zero_grad(set_to_none=True)
        stage.after_step(self.done)
        for key, value in {"loss": loss, "norm": norm, **numbers}.items():
            value = value.detach() if torch.is_tensor(value) else value
            self.counts["sums"].setdefault(key, []).append(value)
        self.step, self.pictures = self.step + 1, self.pictures + count
        return float(loss.detach()), rate

    def _jumped(self, loss: float) -> bool:
        """Note a step's loss; whether the last ones lie far over the running median."""
        losses = self.counts["losses"]
        if not math.isfinite(loss):  # such a step is skipped
            return False
        losses.append(loss)
        del losses[:-WINDOW]
        usual = median(losses)
        now = mean(min(value, SPIKE * usual) for value in losses[-RECENT:])
        # By then there is a checkpoint that is safe.
        return len(losses) > WINDOW // 2 + SAFE and usual > 0 and now > JUMP * usual

    def _rewind(self) -> None:
        """Go back to a checkpoint from before a jump of the loss, and on with the next batches.

        Raises RunError if there is none, or after `MOST_REWOUND` jumps.
        """
        losses, rewound, skipped = (self.counts[key] for key in ("losses", "rewound", "skipped"))
        levels = f"{median(losses):.2f} to {mean(losses[-RECENT:]):.2f}"
        jump = f"its loss jumped from {levels} at {self.pictures:,} pictures"
        found = self.run.resume(self.step - SAFE) if len(rewound) < MOST_REWOUND else None
        self.accelerator.wait_for_everyone()  # before one of them removes what another reads
        if found is None:
            raise RunError(f"{self.run.name}: {jump}, after {len(rewound)} jumps from which it "
                           "went back; lower the learning rate")
        note = {"step": self.step, "pictures": self.pictures, "back": found[0]}
        ahead = self.counts["ahead"] + self.step - found[0]
        self._restore(*found)
        self.counts |= {"ahead": ahead, "rewound": [*rewound, note], "skipped": skipped}
        self._write(rewound=len(rewound) + 1, jumped_at=note["pictures"])
        self.run.save_checkpoint(self.step, self.state())
        warnings.warn(f"{self.run.name}: {jump}; gone back to {self.pictures:,} pictures, with "
                      "other data from there", stacklevel=3)

    def _skip(self, batch: Any) -> None:
        """Note a step that is not made, with its batch's expressions; RunError past the limit."""
        skipped, ids = self.counts["skipped"], list(batch.ids)
        skipped.append({"step": self.step, "pictures": self.pictures, "ids": ids})
        if len(skipped) > MOST_SKIPPED:
            path = self.run.folder / "skipped.json"
            write_atomic(path, json.dumps(skipped, indent=1, ensure_ascii=False) + "\n")
            raise RunError(f"{self.run.name}: {MOST_SKIPPED} steps with a loss or gradient that is "
                           f"not finite; the expressions of their batches are in {path}. Lower the "
                           "learning rate, or leave those expressions out")

    def _log(self, rate: float) -> float:
        """Write a row of the curves: means over the steps since the last one. Returns the loss."""
        row = {k: sum(map(float, v)) / len(v) for k, v in self.counts["sums"].items()}
        self.counts["sums"].clear()
        self._write(lr=rate, skipped=len(self.counts["skipped"]), **row)
        return row["loss"]

    def _write(self, **row: Any) -> None:
        if row:
            minutes = round(self.run.minutes, 3)
            self.run.log(step=self.step, pictures=self.pictures, minutes=minutes, **row)

    def _quietly(self, measure: Callable[..., dict[str, float]], *given: float) -> dict[str, float]:
        """What `measure` says of the modules as they read, without gradient."""
        training = {k: m.training for k, m in self.modules.items()}
        for module in self.modules.values():
            module.eval()
        with torch.no_grad(), self.accelerator.autocast():
            numbers = measure(*given)
        for key, module in self.modules.items():
            module.train(training[key])
        return numbers

    def _look_early(self) -> None:
        numbers = self._quietly(self.stage.early)
        numbers = {f"early_{name}_{self.step}": value for name, value in numbers.items()}
        self.counts["early"] |= numbers
        self._write(**numbers)

    def _validate(self) -> dict[str, float]:
        """Log the validation numbers, and warn if they look like a collapse."""
        numbers = self._quietly(self.stage.validate, self.done)
        self._write(**{f"valid_{k}": v for k, v in numbers.items()})
        if self.accelerator.is_main_process:
            for sign in collapsed(numbers, self.pictures):
                text = f"{self.run.name} may have collapsed at {self.pictures:,} pictures: {sign}"
                warnings.warn(text, stacklevel=2)
        return numbers

    def _compare(self, last: dict[str, float]) -> None:
        """RunError if the last validation is far worse than the best, as after a blow-up."""
        gauge = self.stage.gauge
        name, sign = gauge.removeprefix("-"), -1 if gauge.startswith("-") else 1
        logged = [row.get(f"valid_{name}") for row in self.run.metrics()]
        values = [float(value) for value in logged if value is not None]
        if name not in last or len(values) < 3:
            return
        best = max(values, key=lambda value: sign * value)
        if sign * (best - last[name]) > FAR_WORSE * abs(best):
            raise RunError(f"{self.run.name} is not finished: its last validation ({name} "
                           f"{last[name]:.3f}) is far worse than its best ({best:.3f}), so it came "
                           "apart on the way. Lower the learning rate, or delete its folder to "
                           "begin anew")

    def _agreed(self, out: bool, steps: int) -> bool:
        """Whether one process asks for it. Several act together; they ask every tenth step."""
        if self.accelerator.num_processes == 1:
            return out
        if steps % 10:
            return False
        mine = torch.tensor(float(out), device=self.accelerator.device)
        return bool(self.accelerator.reduce(mine))


def _catch_signals(stop: threading.Event) -> dict[int, Any]:
    """Let SIGINT and SIGTERM set `stop`; returns the handlers to put back."""
    if threading.current_thread() is not threading.main_thread():  # only that one may
        return {}
    numbers = (signal.SIGINT, signal.SIGTERM)
    return {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
