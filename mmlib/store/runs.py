"""Content-addressed runs: a finished run is a folder that names everything it depends on.

    results/runs/<stage>-<profile>-<hash>/
        config.json            what was asked: configuration, inputs, code version
        metrics.jsonl          the curves, one JSON object a line
        environment.json       where it ran: commit, versions, hardware, minutes, seed; written last
        records.csv            its rows of results/records.csv
        weights.safetensors    the result (ignored by git)
        checkpoint-*           to resume from (ignored by git)

The hash covers the stage, its whole configuration, the identity of its inputs (data, weights) and the stage's
`CODE_VERSION`, a string that the stage changes when its code changes the result. It is declared rather than
computed from the source, so that a new comment does not throw committed results away.

Two marks in a configuration's field metadata bend the hash: `field(metadata={"hash": False})` leaves a field
out (number of workers), and `field(metadata={"neutral": value})` leaves it out while it has that value, so
that a new option, switched off, keeps the hashes of the runs made before it; in a configuration's parts too.

Files hold safetensors and JSON, never pickle: reading a run executes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import functools
import glob
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import secrets
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors

ASKED = (
    "stage",
    "profile",
    "config",
    "inputs",
    "version",
)  # what config.json holds, in the order of Run's fields
KEPT_CHECKPOINTS = 2  # the newest, and the one to fall back to


class RunError(RuntimeError):
    """A run or its files cannot be used; the message names the file and the reason."""


# --- places and files ---------------------------------------------------------------------------------------


def project_root() -> Path:
    """The checkout: the folder above this package, or else the nearest one at or above the caller."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "mmlib").is_dir():
            return folder
    return Path.cwd()


def results_root() -> Path:
    """Where results are kept: `$MMLIB_RESULTS`, else `results/` in the project."""
    return Path(os.environ.get("MMLIB_RESULTS") or project_root() / "results")


def figures_root() -> Path:
    """Where figures are drawn to: `$MMLIB_FIGURES`, else `figures/` in the project."""
    return Path(os.environ.get("MMLIB_FIGURES") or project_root() / "figures")


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def full(path: str | os.PathLike[str], error: OSError) -> Exception:
    """What to raise where a write fails: for a full disk or quota a RunError that says what to do, else the error itself."""
    if error.errno not in FULL:
        return error
    return RunError(f"{path} could not be written: {error.strerror}. What was there before is whole; make room, and the same "
                    "command goes on from the last checkpoint")


@contextlib.contextmanager
def elsewhere(name: str, folder: str | os.PathLike[str]) -> Iterator[None]:
    """Let `$MMLIB_RESULTS` or `$MMLIB_FIGURES` be another folder for a while."""
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write the file whole or not at all: a temporary file beside it, flushed to disk, then renamed.

    Raises RunError where the disk is full. What a killed process left of an earlier try is removed after an hour.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise full(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, 16 hex digits: the identity of a pack or of weights as a run's input."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _item(value: Any) -> Any:
    if hasattr(value, "item"):  # numpy and torch scalars
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} does not fit in JSON")


def _json(value: Any, **options: Any) -> str:
    return json.dumps(value, default=_item, ensure_ascii=False, **options)


# --- where a run ran ----------------------------------------------------------------------------------------


def commit() -> str:
    """Short id of the checkout's commit, with '+' when mmlib's code differs; 'unknown' without git."""
    git = functools.partial(subprocess.run, cwd=project_root(), capture_output=True, text=True, timeout=20)
    try:
        head = git(["git", "rev-parse", "--short=7", "HEAD"])
        changed = bool(git(["git", "status", "--porcelain", "--", "mmlib"]).stdout.strip())
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return head.stdout.strip() + "+" * changed if head.returncode == 0 else "unknown"


@functools.cache
def hardware() -> str:
    """What computes, in words: 'NVIDIA H200', '4 x NVIDIA A100', or '2 x AMD EPYC (CPU)'."""
    if torch.cuda.is_available():
        count, name = torch.cuda.device_count(), torch.cuda.get_device_name(0)
        return name if count == 1 else f"{count} x {name}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} x {name} (CPU)"


def utc() -> str:
    """Now, as '2025-08-08T12:00:00Z'."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "accelerate", "safetensors"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


# --- nested state as tensors and JSON -----------------------------------------------------------------------


def flatten(state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Part nested dicts, lists, tuples, tensors and scalars into named tensors and a JSON value.

    Made for `state_dict()`s: dict keys may be integers, tensors may share memory (each is copied to the CPU).
    Returns what `unflatten` takes. Raises RunError naming the place of a value of any other type.
    """
    tensors: dict[str, torch.Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[path] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": path}
        if isinstance(value, Mapping):
            if bad := [key for key in value if not isinstance(key, str | int)]:
                raise RunError(f"cannot save {path}: key {bad[0]!r} is neither text nor an integer")
            # The index keeps names apart where keys differ in type only (1 and '1') or contain the separator.
            items = enumerate(value.items())
            return {"dict": [[key, walk(item, f"{path}.{i}:{key}")] for i, (key, item) in items]}
        if isinstance(value, list | tuple):
            return {type(value).__name__: [walk(item, f"{path}.{i}") for i, item in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy scalars
            return value.item()
        raise RunError(f"cannot save {path}: a {type(value).__name__} is not a tensor, scalar, list or dict")

    return tensors, walk(state, "state")


def unflatten(tensors: Mapping[str, torch.Tensor], structure: Any) -> Any:
    """The inverse of `flatten`."""
    if not isinstance(structure, dict):
        return structure
    ((kind, value),) = structure.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unflatten(tensors, item) for key, item in value}
    items = [unflatten(tensors, item) for item in value]
    return tuple(items) if kind == "tuple" else items


def save_weights(
    path: str | os.PathLike[str], weights: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write a flat `state_dict` and JSON metadata (what rebuilds the model) as one safetensors file."""
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}
    write_atomic(path, safetensors.save(tensors, {"metadata": _json(dict(metadata))}))


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read `(state_dict, metadata)` on the CPU. Raises FileNotFoundError, or RunError for a damaged file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, json.loads((file.metadata() or {}).get("metadata", "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is not a whole safetensors file: {error}") from error


# --- runs ---------------------------------------------------------------------------------------------------


def _plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass (or a mapping) as JSON would give it back: tuples as lists, keys as text."""
    values = dataclasses.asdict(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else dict(config)
    try:
        plain: dict[str, Any] = json.loads(_json(values, allow_nan=False))
        return plain
    except (TypeError, ValueError) as error:
        raise RunError(
            f"a configuration holds only numbers, text, None and lists of them: {error}"
        ) from error


def fields_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a flat configuration from its JSON, where its tuples are lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _leave_out(values: dict[str, Any], kind: Any) -> None:
    """Take from a configuration what the marks on its fields leave out of a run's name, also in the configurations within it."""
    if not dataclasses.is_dataclass(kind):
        return
    kinds = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        mark, value = field.metadata, values.get(field.name)
        if mark.get("hash") is False or ("neutral" in mark and value == _plain({"": mark["neutral"]})[""]):
            values.pop(field.name, None)
        elif isinstance(value, dict):
            _leave_out(value, kinds[field.name])


def run_hash(stage: str, config: Any, inputs: Mapping[str, str], version: str, kind: type | None = None) -> str:
    """Ten hex digits over all that a run depends on; for the marks on fields see the module's docstring.

    kind: the dataclass whose marks count, where `config` is the mapping that a config.json holds.
    """
    values = _plain(config)
    _leave_out(values, kind or type(config))
    content = {"stage": stage, "version": str(version), "config": values, "inputs": dict(inputs)}
    return hashlib.sha256(_json(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:10]


def _row(value: Any) -> dict[str, Any]:
    """A line of the curves; ValueError for what is none."""
    if not isinstance(value, dict) or not isinstance(value.get("step", 0), int | float):
        raise ValueError("a row of the curves is an object with a number as its step")
    return value


@dataclasses.dataclass
class Run:
    """One run and its folder. Opening one touches no disk; the first thing written makes the folder::

    run = Run.open("pretrain", "smoke", config, inputs={"data": pack_identity}, version=CODE_VERSION)
    if not run.done:
        with run.lock():
            step, state = run.resume() or (0, None)
            ...
            run.log(step=step, loss=0.3)
            run.save_checkpoint(step, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
            ...
            run.save_weights(model.state_dict(), {"config": run.config})
            run.finish(loss=0.2, pictures=1000)
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
    def open(
        cls, stage: str, profile: str, config: Any, inputs: Mapping[str, str], version: str = "1"
    ) -> Run:
        """The run with this configuration (a dataclass), these input identities and this code version."""
        name = f"{stage}-{profile}-{run_hash(stage, config, inputs, version)}"
        return cls(stage, profile, _plain(config), dict(inputs), str(version), results_root() / "runs" / name)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Run:
        """The run that a folder holds. Raises RunError when its config.json is missing or damaged."""
        path = Path(folder) / "config.json"
        try:
            asked = json.loads(path.read_text(encoding="utf-8"))
            if not (isinstance(asked["config"], dict) and isinstance(asked["inputs"], dict)):
                raise TypeError("config and inputs are objects")
            stage, profile, config, inputs, version = (asked[key] for key in ASKED)
            return cls(stage, profile, config, inputs, version, Path(folder))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"{path} does not describe a run: {error!r}") from error

    @property
    def name(self) -> str:
        """`<stage>-<profile>-<hash>`: `run` in the records, and the identity of this run as an input."""
        return self.folder.name

    @property
    def done(self) -> bool:
        """Whether `finish` was reached. A fresh clone may still lack the weights: see `weights.is_file()`."""
        return (self.folder / "environment.json").is_file()

    @property
    def weights(self) -> Path:
        """The file of the finished run's weights."""
        return self.folder / "weights.safetensors"

    @property
    def environment(self) -> dict[str, Any]:
        """What `finish` wrote: commit, versions, hardware, minutes, seed, utc, weights and `summary`."""
        try:
            return dict(json.loads((self.folder / "environment.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RunError(f"{self.name}: not finished, or environment.json is damaged: {error}") from error

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers given to `finish`."""
        found = self.environment.get("summary")
        if not isinstance(found, dict):
            raise RunError(f"{self.name}: environment.json has no summary: it is damaged")
        return found

    @property
    def minutes(self) -> float:
        """Minutes spent on this run: by this sitting and, once resumed, by those before its checkpoint."""
        return self._before + (time.monotonic() - self._since) / 60

    @contextlib.contextmanager
    def lock(self, writes: bool = True) -> Iterator[Run]:
        """Hold the folder for writing, and write what was asked. RunError if another process holds it.

        Of several processes that train one run, one writes: with `writes=False` nothing is held, and `log`, `save_checkpoint`,
        `save_weights` and `finish` do nothing.
        """
        self._writes, self._since = writes, time.monotonic()
        if not writes:
            yield self
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                for left in self.folder.glob(".*.tmp"):  # of a process that was killed
                    left.unlink()
                asked = {key: getattr(self, key) for key in ASKED}
                write_atomic(self.folder / "config.json", _json(asked, indent=1) + "\n")
                yield self
        except Timeout as error:
            raise RunError(f"another process is writing {self.folder}") from error

    def log(self, **row: Any) -> None:
        """Append a row to metrics.jsonl. Give `step`; numbers that are not finite become null."""
        if not self._writes:
            return
        for key, value in row.items():
            value = value.item() if hasattr(value, "item") else value
            row[key] = None if isinstance(value, float) and not math.isfinite(value) else value
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "metrics.jsonl"
        before = path.stat().st_size if path.exists() else 0
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(_json(row) + "\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, before)  # no half a line
            raise full(path, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """The rows logged so far; a last line cut short by a killed process is left out."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.is_file() else []  # bytes: a character may be cut, too
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(_row(json.loads(line)))
            except (ValueError, RecursionError) as error:
                if number < len(lines):
                    raise RunError(f"{path}, line {number}: {error}") from error
        return rows

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.safetensors"), reverse=True)

    def save_checkpoint(self, step: int, state: Any) -> Path | None:
        """Keep nested `state` (see `flatten`) to resume from; the checkpoint before it is kept too.

        The file's name carries the step and the SHA-256 of its content.
        """
        if not self._writes:
            return None
        tensors, structure = flatten(state)
        header = {"structure": structure, "step": step, "minutes": self.minutes}
        data = safetensors.save(tensors, {"header": _json(header)})
        path = self.folder / f"checkpoint-{step:010d}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        write_atomic(path, data)
        for old in [old for old in self._checkpoints() if old != path][KEPT_CHECKPOINTS - 1 :]:
            old.unlink()
        return path

    def load_checkpoint(self) -> tuple[int, Any] | None:
        """`(step, state)` of the newest whole checkpoint, tensors on the CPU; None when there is none.

        A damaged file is set aside (`….damaged`) and named in a warning, and the one before it is used; RunError when all are
        damaged.
        """
        paths = self._checkpoints()
        for path in paths:
            try:
                if not path.stem.endswith(digest(path)):
                    raise ValueError("its content does not match its name")
                with safe_open(path, "pt") as file:
                    header = json.loads(file.metadata()["header"])
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                found = header["step"], unflatten(tensors, header["structure"])
                self._before = header["minutes"]
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
            raise RunError(f"no whole checkpoint in {self.folder} ({names} are set aside); the same command starts again from "
                           "the beginning")
        return None

    def resume(self) -> tuple[int, Any] | None:
        """`load_checkpoint`, and drop the rows logged after it, which the resumed run will log again."""
        found = self.load_checkpoint()
        if not self._writes:
            return found
        last = found[0] if found else -1
        rows = [row for row in self.metrics() if row.get("step", 0) <= last]
        if rows or (self.folder / "metrics.jsonl").exists():
            write_atomic(self.folder / "metrics.jsonl", "".join(_json(row) + "\n" for row in rows))
        return found

    def save_weights(self, weights: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> Path:
        """Write the run's result; see `save_weights` of this module."""
        if self._writes:
            save_weights(self.weights, weights, metadata)
        return self.weights

    def load_weights(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """`(state_dict, metadata)`. Raises FileNotFoundError naming the run, RunError for a damaged file."""
        if not self.weights.is_file():
            raise FileNotFoundError(
                f"{self.name} has no weights here (they are not committed): train it again"
            )
        if self.done and self.environment["weights"] != digest(self.weights):
            raise RunError(f"{self.weights} is not the file that the run wrote when it finished")
        return load_weights(self.weights)

    def finish(self, **summary: Any) -> None:
        """Mark the run as done, with a summary of numbers; the checkpoints are then of no more use and go."""
        if not self._writes:
            return
        environment = {
            "commit": commit(),
            "versions": versions(),
            "hardware": hardware(),
            "minutes": round(self.minutes, 2),
            "seed": self.config.get("seed"),
            "utc": utc(),
            "weights": digest(self.weights) if self.weights.is_file() else None,
            "summary": summary,
        }
        write_atomic(self.folder / "environment.json", _json(environment, indent=1) + "\n")
        for path in self._checkpoints():
            path.unlink()


def find_runs(stage: str | None = None, profile: str | None = None, done: bool = True) -> list[Run]:
    """The runs kept here by name, of one stage or profile if given; unfinished ones too with `done=False`."""
    runs = [Run.load(path.parent) for path in sorted((results_root() / "runs").glob("*/config.json"))]
    runs = [run for run in runs if stage in (None, run.stage) and profile in (None, run.profile)]
    return [run for run in runs if run.done or not done]


def sizes_of(run: Run) -> tuple[float, ...]:
    """At which sizes, of the recogniser's own, an evaluation drew what it read: one, where its run is older than the choice."""
    return tuple(run.config.get("sizes", (1.0,)))


def views_of(stage: str, config: Mapping[str, Any] | None = None) -> int:
    """Pictures that a stage draws of each expression: the budget counts every view. In stage 1 the objective says how many; a
    run's configuration from before there were others has none."""
    if stage == "pretrain":
        from mmlib.train.objectives import find_objective

        return find_objective((config or {}).get("objective", "contrast")).views
    return 1 if stage == "finetune" else 2


def training_cost(run: Run) -> tuple[int, float]:
    """Pictures seen and minutes spent by a finished run and all that it started from; two views are two pictures.

    Raises RunError where what it started from is not kept here.
    """
    pictures, minutes = earlier_cost(run)
    return pictures + run.summary["pictures"] * views_of(run.stage, run.config), minutes + run.environment["minutes"]


def earlier_cost(run: Run) -> tuple[int, float]:
    """Pictures seen and minutes spent by all that a run, finished or not, started from. RunError where that is not kept here."""
    before = run.inputs.get("init", "none")
    if before == "none":
        return 0, 0.0
    if before.startswith("recogniser-"):  # a weights file, not a run
        if not run.done:
            raise RunError(f"{run.name} is not finished: only then is the cost of the weights that it started from written down")
        return run.summary["earlier_pictures"], run.summary["earlier_minutes"]
    return training_cost(Run.load(run.folder.parent / before))
