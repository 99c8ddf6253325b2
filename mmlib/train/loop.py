"""The training loop of all three stages: one budget unit (pictures seen), checkpoints, resume, limits that only pause.

A learning rate holds steady after its warm-up and falls to zero over the last share of the budget (warm-up, stable, decay).
So two runs that differ in budget alone share their first steps: the shorter one's state before its decay, its *trunk*, is
kept, and the longer one goes on from there. It ends exactly as if it had been trained alone.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mmlib.models.layers import native_bfloat16
from mmlib.store.files import RunError, elsewhere, results_root, write_atomic
from mmlib.store.run import Run, run_hash
from mmlib.store.weights import flatten, unflatten
from mmlib.train.health import collapsed
from mmlib.train.muon import Muon

MOST_SKIPPED = 20  # steps without a finite loss and gradient, after which a run ends
ENDS = ("embed", "logits", "symbols", "density", "scalars", "pixels")  # rows are tokens, classes, slots or pixels, not directions


@dataclass(frozen=True)
class OptimConfig:
    """Muon or AdamW, and the learning rate's course."""

    muon: bool = True  # for the matrices inside the network; AdamW elsewhere, and everywhere without
    lr: float = 3e-3
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: int = 3_000  # pictures
    decay: float = 0.25  # the last share of the budget, over which the rate falls to zero
    clip: float = 1.0  # norm of the gradient


def learning_rate(pictures: int, total: int, config: OptimConfig) -> float:
    """Warm-up, stable, linear decay; a pure function of the pictures seen."""
    start = total * (1 - config.decay)
    rise = min(1.0, (pictures + 1) / max(config.warmup, 1))
    fall = 1.0 if pictures < start else max(0.0, (total - pictures) / max(total - start, 1))
    return config.lr * min(rise, fall)


class Paused(RuntimeError):
    """A limit or a signal stopped the run; its checkpoint is written and the same command goes on."""


def accelerator() -> Accelerator:
    """bf16 autocast on CUDA and on CPUs that multiply bfloat16 natively; full precision elsewhere."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        return Accelerator(mixed_precision="bf16")
    return Accelerator(mixed_precision="bf16" if native_bfloat16() else "no", cpu=True)


def optimizer(modules: Iterable[nn.Module], config: OptimConfig, slow: Iterable[nn.Module] = (), factor: float = 0.1
              ) -> torch.optim.Optimizer:
    """No decay on vectors and scalars; the modules in `slow` run at `factor` times the rate. With Muon, weights of hidden linear
    and convolutional layers take its step; embeddings and output layers (`ENDS`), vectors and scalars take AdamW's."""
    groups = []
    for scale, members in ((1.0, modules), (factor, slow)):
        kinds: dict[str, list[nn.Parameter]] = {"hidden": [], "end": [], "vector": []}
        for name, p in ((name, p) for m in members for name, p in m.named_parameters() if p.requires_grad):
            inside = config.muon and "." in name and name.split(".")[-2] not in ENDS
            kinds["vector" if p.ndim < 2 else "hidden" if inside else "end"].append(p)
        groups += [{"params": chosen, "weight_decay": 0.0 if kind == "vector" else config.weight_decay, "scale": scale,
                    "muon": kind == "hidden"} for kind, chosen in kinds.items() if chosen]
    return Muon(groups, lr=config.lr, betas=config.betas, fused=True)


def feeding(tools: Accelerator) -> dict[str, Any]:
    """How a `Feed` serves this process: its share of the batches, and, for a GPU, worker processes that draw them."""
    workers = max(1, (os.cpu_count() or 1) // tools.num_processes - 2) if tools.device.type == "cuda" else 0
    return {"share": (tools.process_index, tools.num_processes), "workers": min(workers, 12)}


@dataclass
class Loop:
    """State and services of one training.

    modules: everything with parameters or buffers to keep, by name. step_fn(batch, pictures) returns the loss and a dict of
    numbers to log. batches(start) yields (pictures in the batch, batch) from batch number `start` on, endless and
    deterministic. evaluate(pictures) returns numbers to log, every `every` pictures and at the end.
    """

    run: Run
    accelerator: Accelerator
    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    optim: OptimConfig
    total: int
    step_fn: Callable[[Any, int], tuple[Tensor, dict[str, Any]]]
    batches: Callable[[int], Generator[tuple[int, Any]]]
    evaluate: Callable[[int], dict[str, float]] | None = None
    every: int = 10_000
    after_step: Callable[[int], None] | None = None
    trunks: bool = True  # off where a step depends on the budget, as a curriculum does
    checkpoint_minutes: float = 3.0
    log_pictures: int = 300  # between two rows of the curves; a budget below 12,000 has 40 rows
    progress: bool = True
    # What the next row of the curves is a mean over, and the steps that were skipped: parts of the state, so that a resumed run
    # logs what the uninterrupted one would have.
    counts: dict[str, Any] = field(default_factory=lambda: {"sums": {}, "skipped": []})

    def state(self) -> dict[str, Any]:
        """The same whatever the number of processes."""
        bare = self.accelerator.unwrap_model
        return {"modules": {k: bare(m).state_dict() for k, m in self.modules.items()}, "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(), "counts": self.counts}

    def restore(self, state: dict[str, Any]) -> None:
        for key, module in self.modules.items():
            self.accelerator.unwrap_model(module).load_state_dict(state["modules"][key])
        self.optimizer.load_state_dict(state["optimizer"])
        # A checkpoint holds tensors in their logical order; the fused optimiser pairs a parameter with its moments by their
        # place in memory, so these must lie as the parameter does (channels last).
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if "rng" in state:
            torch.set_rng_state(state["rng"])
        self.counts = state.get("counts", self.counts)

    # --- trunks -----------------------------------------------------------------------------------------------
    def _trunk(self) -> Path:
        """Folder of snapshots shared by the runs that differ in budget alone; several processes count steps in other batches."""
        config = {k: v for k, v in self.run.config.items() if k != "pictures"}
        key = run_hash(self.run.stage, config, self.run.inputs, self.run.version)
        processes: int = self.accelerator.num_processes
        return results_root() / "trunks" / (f"{self.run.stage}-{key}" + f"-{processes}-processes" * (processes > 1))

    def _save_trunk(self, step: int, pictures: int) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors, structure = flatten(self.state())
        header = {"structure": structure, "step": step, "pictures": pictures, "minutes": self.run.minutes}
        path = self._trunk() / f"{pictures:010d}.safetensors"
        rows = "".join(json.dumps(r) + "\n" for r in self.run.metrics())
        write_atomic(path.with_suffix(".jsonl"), rows)  # first: a trunk that is there has its curves
        write_atomic(path, save(tensors, {"header": json.dumps(header)}))

    def _load_trunk(self) -> tuple[int, int] | None:
        """Restore the furthest snapshot before this run's decay; (step, pictures) or None."""
        for path in sorted(self._trunk().glob("*.safetensors"), reverse=True):
            if int(path.stem) > self.total * (1 - self.optim.decay):
                continue
            try:
                with safe_open(path, "pt") as file:
                    header = json.loads(file.metadata()["header"])
                    self.restore(unflatten({k: file.get_tensor(k) for k in file.keys()}, header["structure"]))  # noqa: SIM118
            except (SafetensorError, KeyError, ValueError) as error:
                raise RunError(f"{path} is damaged ({error}); delete it") from error
            if self.accelerator.is_main_process:
                write_atomic(self.run.folder / "metrics.jsonl", path.with_suffix(".jsonl").read_text())
            self.run._before = header["minutes"]
            return header["step"], header["pictures"]
        return None

    # --- the loop -----------------------------------------------------------------------------------------------
    def train(self, max_minutes: float | None = None, max_steps: int | None = None) -> dict[str, float]:
        """Run to the end of the budget; returns the last evaluation. Raises Paused at a limit or on SIGINT or SIGTERM."""
        from tqdm.auto import tqdm

        step = pictures = 0
        found = self.run.resume()
        if found:
            step, state = found
            pictures, processes = state.pop("pictures"), state.pop("processes", 1)
            ours = self.accelerator.num_processes
            if processes != ours:  # steps would be counted in other batches
                raise RunError(f"{self.run.name} was paused with {processes} process{'es' * (processes > 1)} and cannot go on "
                               f"with {ours}: start as many again, or delete its folder to begin anew")
            self.restore(state)
        elif self.trunks and (trunk := self._load_trunk()):
            step, pictures = trunk
        began = saved = time.monotonic()
        last: dict[str, float] = {}
        steps_now = 0
        sums, skipped = self.counts["sums"], self.counts["skipped"]
        trunk_at = int(self.total * (1 - self.optim.decay))
        log_every = max(1, min(self.log_pictures, self.total // 40))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        stop = threading.Event()
        previous = _catch_signals(stop)
        batches = self.batches(step)
        bar = tqdm(total=self.total, initial=pictures, unit="pic", desc=self.run.stage, mininterval=2,
                   disable=not (self.progress and self.accelerator.is_main_process))
        try:
            for count, batch in batches:
                if pictures >= self.total:
                    break
                rate = learning_rate(pictures, self.total, self.optim)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate * group["scale"]
                with self.accelerator.autocast():
                    loss, numbers = self.step_fn(batch, pictures)
                self.accelerator.backward(loss)
                norm = torch.nn.utils.clip_grad_norm_(parameters, self.optim.clip)
                # Several processes have one gradient and each its own loss, and must do the same.
                finite = norm if self.accelerator.num_processes > 1 else norm + loss.detach()
                if torch.isfinite(finite):
                    self.optimizer.step()
                else:
                    self._skip(step, pictures, batch)
                self.optimizer.zero_grad(set_to_none=True)
                if self.after_step:
                    self.after_step(pictures)
                before, step, pictures, steps_now = pictures, step + 1, pictures + count, steps_now + 1
                bar.update(count)
                for key, value in {"loss": loss.detach(), "norm": norm, **numbers}.items():
                    sums.setdefault(key, []).append(value.detach() if torch.is_tensor(value) else value)
                if before // log_every != pictures // log_every or pictures >= self.total:
                    row = {k: sum(float(x) for x in v) / len(v) for k, v in sums.items()}
                    sums.clear()
                    self.run.log(step=step, pictures=pictures, minutes=round(self.run.minutes, 3), lr=rate, skipped=len(skipped),
                                 **row)
                    bar.set_postfix(loss=f"{row['loss']:.3f}")
                if self.evaluate and before // self.every != pictures // self.every and pictures < self.total:
                    last = self._evaluate(step, pictures)
                if self.trunks and before < trunk_at <= pictures and self.optim.decay:
                    self._save_trunk(step, pictures)
                now = time.monotonic()
                out = self._agreed(stop.is_set() or (max_minutes is not None and now - began > 60 * max_minutes), steps_now)
                out |= max_steps is not None and steps_now >= max_steps
                if pictures < self.total and (out or now - saved > 60 * self.checkpoint_minutes):
                    self.run.save_checkpoint(step, {**self.state(), "pictures": pictures,
                                                    "processes": self.accelerator.num_processes})
                    saved = now
                if out and pictures < self.total:
                    raise Paused(f"{self.run.name}: paused at {pictures:,} of {self.total:,} pictures; "
                                 "the same command goes on from here")
            if self.evaluate:
                last = self._evaluate(step, pictures)
        finally:
            bar.close()
            batches.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return {**last, "pictures": pictures, "steps": step, "skipped": len(skipped)}

    def _skip(self, step: int, pictures: int, batch: Any) -> None:
        """Note a step that is not made, with the expressions of its batch. Past the limit they are written, and RunError."""
        skipped = self.counts["skipped"]
        skipped.append({"step": step, "pictures": pictures, "ids": list(getattr(batch, "ids", ()))})
        if len(skipped) > MOST_SKIPPED:
            path = self.run.folder / "skipped.json"
            write_atomic(path, json.dumps(skipped, indent=1, ensure_ascii=False) + "\n")
            raise RunError(f"{self.run.name}: {MOST_SKIPPED} steps with a loss or gradient that is not finite; the expressions "
                           f"of their batches are in {path}. Lower the learning rate, or leave those expressions out")

    def _agreed(self, out: bool, steps: int) -> bool:
        """Whether to pause. Several processes pause together where any would, which they ask each other every tenth step."""
        if self.accelerator.num_processes == 1:
            return out
        if steps % 10:
            return False
        return bool(self.accelerator.reduce(torch.tensor(float(out), device=self.accelerator.device)))

    def _evaluate(self, step: int, pictures: int) -> dict[str, float]:
        training = {k: m.training for k, m in self.modules.items()}
        for module in self.modules.values():
            module.eval()
        assert self.evaluate is not None
        with torch.no_grad(), self.accelerator.autocast():
            numbers = self.evaluate(pictures)
        for key, module in self.modules.items():
            module.train(training[key])
        self.run.log(step=step, pictures=pictures, minutes=round(self.run.minutes, 3),
                     **{f"valid_{k}": v for k, v in numbers.items()})
        for sign in collapsed(numbers, pictures) if self.accelerator.is_main_process else ():
            warnings.warn(f"{self.run.name} may have collapsed at {pictures:,} pictures: {sign}", stacklevel=2)
        return numbers


def _catch_signals(stop: threading.Event) -> dict[int, Any]:
    """SIGINT and SIGTERM set `stop`; returns the handlers to put back. Only the main thread can do this."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision, on the CPU: what a finished run keeps. Batch norm's running variances may not fit: they stay."""
    kept = {k: v.dtype if "running_" in k or not v.is_floating_point() else torch.float16 for k, v in state.items()}
    return {k: v.detach().to("cpu", kept[k]).contiguous() for k, v in state.items()}


def initial_run(name: str, profile: str, dataset: str, seed: int, max_minutes: float | None = None,
                max_steps: int | None = None, weights: bool = True) -> Run | None:
    """The run whose weights a stage starts from: None for 'none'; the profile's own run for 'pretrain' and 'attend', trained
    where it is not there; else the run folder of that name.

    Weights are not committed. Where a finished run of the profile has none and `weights` are asked for, it is trained again,
    under `retrained/` in the results: what is committed stays as it is. A named run is looked for there, too.
    """
    if name == "none":
        return None
    if name in ("pretrain", "attend"):
        stage = importlib.import_module(f"mmlib.train.{name}")
        config = stage.Config.preset(profile, dataset=dataset, seed=seed)
        found: Run = stage.run(config, profile, max_minutes, max_steps)
        if found.weights.is_file() or not weights:
            return found
        with elsewhere("MMLIB_RESULTS", results_root() / "retrained"):
            found = stage.run(config, profile, max_minutes, max_steps)
        return found
    kept, again = (results_root() / folder / name for folder in ("runs", "retrained/runs"))
    return Run.load(again if weights and again.is_dir() and not (kept / "weights.safetensors").is_file() else kept)
