"""Content-addressed runs: a run is a folder that names everything it depends on.

    results/runs/<stage>-<profile>-<hash>/
        config.json            what was asked: configuration, inputs, code version
        metrics.jsonl          the curves, one JSON object per line
        environment.json       where it ran: commit, versions, hardware, minutes; written last
        weights.safetensors    the result (ignored by git)
        checkpoint-*           to resume from (ignored by git)

The hash covers the stage, its whole configuration but the study's name for it (`arm`), the identity
of its inputs (data, weights) and the stage's `CODE_VERSION`. A stage changes that string when its
code changes the result: a declared version, so that a new comment throws no results away.

Files hold safetensors and JSON, never pickle: reading a run executes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors import torch as safetensors

from mmlib.store import weights as tensor_files
from mmlib.store.files import (
    RunError,
    digest,
    make_folder,
    results_root,
    to_json,
    write_atomic,
    write_failure,
)
from mmlib.store.machine import commit, hardware, utc, versions
from mmlib.store.weights import Tensors, flatten, read_tensors, unflatten

ASKED = ("stage", "profile", "config", "inputs", "version")  # in config.json, and of Run
NOT_HASHED = ("arm",)  # fields of a configuration that change no number
# Fields that came later, with the value that means what was done before: at it they are not hashed.
LATER = {"beyond": 0.0, "pictured": 0.0}
# Fields that are gone, by one that stood beside them, with the values that runs had: they are still
# hashed, so that runs keep their names.
GONE = {"balance": {"positives": "ink", "negatives": "batch"}}
KEPT_CHECKPOINTS = 2  # the newest, and the one to fall back to


def plain(config: Any) -> dict[str, Any]:
    """A configuration (a dataclass or mapping) as JSON would give it back: tuples as lists."""
    try:
        return json.loads(to_json(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RunError("a configuration holds only numbers, text, None and lists of them: "
                       f"{error}") from error


def run_hash(stage: str, config: Any, inputs: Mapping[str, str], version: str) -> str:
    """Ten hex digits over all that a run depends on."""
    known = plain(config)
    for beside, fields in GONE.items():
        known = fields | known if beside in known else known
    values = {key: value for key, value in known.items()
              if key not in NOT_HASHED and not (key in LATER and value == LATER[key])}
    content = {"stage": stage, "version": version, "config": values, "inputs": dict(inputs)}
    # Sorted and without spaces: equal configurations have equal text.
    text = to_json(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclasses.dataclass
class Run:
    """One run and its folder. Opening one touches no disk; the first write makes the folder.

    A run is opened; if it is not done, it is locked, resumed, logged, checkpointed and finished.
    """

    stage: str
    profile: str
    config: dict[str, Any]
    inputs: dict[str, str]
    version: str
    folder: Path
    _before: float = 0.0  # minutes spent by earlier sittings of this run
    _since: float = dataclasses.field(default_factory=time.monotonic)
    _writes: bool = True  # False in the processes beside the one that writes

    @classmethod
    def open(cls, stage: str, profile: str, config: Any, inputs: Mapping[str, str],
             version: str = "1") -> Run:
        """The run with this configuration (a dataclass), these inputs and this code version."""
        name = f"{stage}-{profile}-{run_hash(stage, config, inputs, version)}"
        folder = results_root() / "runs" / name
        return cls(stage, profile, plain(config), dict(inputs), version, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Run:
        """A run by its folder, or by its name. RunError if config.json is missing or damaged."""
        own = Path(folder)
        path = (own if own.exists() else results_root() / "runs" / folder) / "config.json"
        try:
            asked = json.loads(path.read_text(encoding="utf-8"))
            if not (isinstance(asked["config"], dict) and isinstance(asked["inputs"], dict)):
                raise TypeError("config and inputs are objects")
            stage, profile, config, inputs, version = (asked[key] for key in ASKED)
            return cls(stage, profile, config, inputs, version, path.parent)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"{path} does not describe a run: {error!r}") from error

    @property
    def name(self) -> str:
        """`<stage>-<profile>-<hash>`: its name in the records, and its identity as an input."""
        return self.folder.name

    @property
    def done(self) -> bool:
        """Whether `finish` was reached. Weights may be missing still: see `weights.is_file()`."""
        return (self.folder / "environment.json").is_file()

    @property
    def weights(self) -> Path:
        """The file of the finished run's weights."""
        return self.folder / "weights.safetensors"

    @property
    def environment(self) -> dict[str, Any]:
        """What `finish` wrote: commit, versions, hardware, minutes, weights, `summary` …"""
        try:
            found = json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))
            return {**found, "summary": dict(found["summary"])}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"{self.name}: not finished, or environment.json is damaged: "
                           f"{error}") from error

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers given to `finish`."""
        return self.environment["summary"]

    @property
    def minutes(self) -> float:
        """Minutes spent on this run: by this sitting and, once resumed, by those before it."""
        return self._before + (time.monotonic() - self._since) / 60

    @contextlib.contextmanager
    def lock(self, writes: bool = True) -> Iterator[Run]:
        """Hold the folder for writing, and write what was asked.

        Where another command holds the folder, this one says so and waits: the run may then be
        done. Of several processes that train one run together, one writes: with `writes=False`
        nothing is held, and `log`, `save_checkpoint`, `save_weights` and `finish` do nothing.
        """
        self._writes, self._since = writes, time.monotonic()
        if not writes:
            yield self
            return
        make_folder(self.folder)
        lock = FileLock(self.folder / ".lock")
        try:
            try:
                held = lock.acquire(timeout=0)
            except Timeout:
                said = f"{self.folder}: another process works on it; waiting for its end"
                print(said, file=sys.stderr, flush=True)
                held = lock.acquire()
        except OSError as error:
            raise write_failure(self.folder, error) from error
        self._since = time.monotonic()
        with held:
            for left in self.folder.glob(".*.tmp"):  # of a process that was killed
                left.unlink()
            asked = {key: getattr(self, key) for key in ASKED}
            write_atomic(self.folder / "config.json", to_json(asked, indent=1) + "\n")
            yield self

    def log(self, **row: Any) -> None:
        """Append a row to metrics.jsonl. Give `step`; numbers that are not finite become null."""
        if not self._writes:
            return
        for key, value in row.items():  # JSON knows no NaN
            value = value.item() if hasattr(value, "item") else value
            row[key] = None if isinstance(value, float) and not math.isfinite(value) else value
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "metrics.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(to_json(row) + "\n")
        except OSError as error:  # half a line is left, which `resume` removes
            raise write_failure(path, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """The rows logged so far, without a last line that a killed process cut short.

        Raises RunError for any other damaged line.
        """
        path = self.folder / "metrics.jsonl"
        # Lines of bytes, since a killed process may cut a character, too.
        lines = path.read_bytes().splitlines() if path.is_file() else []
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(row.get("step", 0), int | float):
                    raise ValueError("a row of the curves is an object with a number as its step")
                rows.append(row)
            except (ValueError, RecursionError) as error:
                if number < len(lines):
                    raise RunError(f"{path}, line {number}: {error}") from error
        return rows

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.safetensors"), reverse=True)

    def save_checkpoint(self, step: int, state: Any) -> Path | None:
        """Keep nested `state` (see `flatten`) to resume from, and the checkpoint before it.

        The file's name carries the step and the SHA-256 of its content.
        """
        if not self._writes:
            return None
        tensors, structure = flatten(state)
        header = {"structure": structure, "step": step, "minutes": self.minutes}
        data = safetensors.save(tensors, {"header": to_json(header)})
        content = hashlib.sha256(data).hexdigest()[:16]
        path = self.folder / f"checkpoint-{step:010d}-{content}.safetensors"
        write_atomic(path, data)
        # One of this step or a later one is of a course that was given up.
        earlier = [old for old in self._checkpoints() if _step_of(old) < step]
        for old in {*self._checkpoints()} - {path, *earlier[: KEPT_CHECKPOINTS - 1]}:
            old.unlink()
        return path

    def load_checkpoint(self, most: int | None = None) -> tuple[int, Any] | None:
        """`(step, state)` of the newest whole checkpoint, tensors on the CPU; None without one.

        With `most`, of the newest whose step is no larger; the minutes spent since then count. A
        damaged file is set aside (`….damaged`) and named in a warning, and the one before it is
        used. Raises RunError if all are damaged.
        """
        paths = [path for path in self._checkpoints() if most is None or _step_of(path) <= most]
        for path in paths:
            try:
                if not path.stem.endswith(digest(path)):
                    raise ValueError("its content does not match its name")
                tensors, metadata = read_tensors(path)
                header = json.loads(metadata["header"])
                found = header["step"], unflatten(tensors, header["structure"])
                self._before = header["minutes"] if most is None else self._before
                return found
            except FileNotFoundError:  # another process of this run has set it aside
                continue
            except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
                reason = error
            aside = path.with_name(f"{path.name}.damaged")
            if self._writes:
                path.rename(aside)
            warnings.warn(f"{path} is damaged: {reason}; set aside as {aside.name}", stacklevel=2)
        if paths:
            names = ", ".join(path.name for path in paths)
            raise RunError(f"no whole checkpoint in {self.folder} ({names} are set aside); the "
                           "same command starts again from the beginning")
        return None

    def resume(self, most: int | None = None) -> tuple[int, Any] | None:
        """`load_checkpoint`, and drop the rows after it, which the resumed run logs again."""
        found, path = self.load_checkpoint(most), self.folder / "metrics.jsonl"
        if self._writes and path.exists() and (found or most is None):
            last = found[0] if found else -1
            rows = [row for row in self.metrics() if row.get("step", 0) <= last]
            write_atomic(path, "".join(to_json(row) + "\n" for row in rows))
        return found

    def save_weights(self, weights: Tensors, metadata: Mapping[str, Any]) -> Path:
        """Write the run's result; see `mmlib.store.weights.save_weights`."""
        if self._writes:
            tensor_files.save_weights(self.weights, weights, metadata)
        return self.weights

    def load_weights(self) -> tuple[Tensors, dict[str, Any]]:
        """`(state_dict, metadata)`.

        Raises FileNotFoundError naming the run, or RunError for a damaged file.
        """
        if not self.weights.is_file():
            raise FileNotFoundError(f"{self.name} has no weights here (they are not committed): "
                                    "delete its folder and train it again")
        if self.done and self.environment["weights"] != digest(self.weights):
            raise RunError(f"{self.weights} is not the file that the run wrote when it finished")
        return tensor_files.load_weights(self.weights)

    def finish(self, minutes: float | None = None, **summary: Any) -> None:
        """Mark the run as done, with a summary of numbers, and remove its checkpoints.

        minutes: what it took, if another file says it too; by default what it took until now.
        """
        if not self._writes:
            return
        environment = {
            "commit": commit(),
            "versions": versions(),
            "hardware": hardware(),
            "minutes": round(self.minutes, 2) if minutes is None else minutes,
            "seed": self.config.get("seed"),
            "utc": utc(),
            "weights": digest(self.weights) if self.weights.is_file() else None,
            "summary": summary,
        }
        # Last of all files, since it says that the run is done.
        write_atomic(self.folder / "environment.json", to_json(environment, indent=1) + "\n")
        for path in self._checkpoints():
            path.unlink()


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])
