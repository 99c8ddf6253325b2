"""How fast it is, and why: `python -m scripts.benchmark [SECTION…]`.

Each section is measured in a process of its own and kept in `results/benchmarks.json`. A number is
a median over repeats, with quartiles, beside the hardware, threads and commit that gave it.
Machines are shared and noisy: times that are compared are measured in one section, alternating. A
loss is of one training. Under another allocator, and where that keeps freed memory, a section has
an entry of its own:

    export LD_PRELOAD=libjemalloc.so.2
    MALLOC_CONF=dirty_decay_ms:10000,muzzy_decay_ms:10000,oversize_threshold:0 \\
        python -m scripts.benchmark training

    reading   seconds to read a picture, by picture size, beam and batch; memory
    steps     seconds of one decoding step against the length written so far: flat with a cache
    training  pictures per second of each stage, beside the two limits of its step: arithmetic, and
              memory traffic
    study     operations of the study's trainings, as a GPU computes them: with all padding
    pipeline  pictures per second of the input alone (an encoder that does nothing), and its parts
    rivals    pictures per second of a training step: our large model, the same with a CoMER-style
              DenseNet as its encoder, and with the desk profile's form of encoder
    learning  validation loss of those after as many pictures; more than two hours, so only where it
              is named
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mmlib.data.augment import Augmenter
from mmlib.data.batches import Feed
from mmlib.data.corpus import load_corpus, synthetic_pack
from mmlib.data.sample import Batch, collate
from mmlib.draw.views import View, make_view
from mmlib.formula.vocabulary import Vocabulary
from mmlib.measure.intervals import interval
from mmlib.models import packing
from mmlib.models.decoder import Cache
from mmlib.models.layers import autocast, channels_last, native_bfloat16
from mmlib.models.layers import default_device as device
from mmlib.models.recogniser import Recogniser
from mmlib.models.search import beam_search
from mmlib.read.reader import THREE_SIZES, Reader
from mmlib.store.files import elsewhere, results_root, write_atomic
from mmlib.store.machine import commit, hardware, utc, versions
from mmlib.study.arms import Budget, questions
from mmlib.study.conduct import Cell, configs
from mmlib.train.attend import Attend
from mmlib.train.contrast import ContrastObjective
from mmlib.train.cost import views_of
from mmlib.train.finetune import Finetune
from mmlib.train.loop import Paused
from mmlib.train.profiles import LARGE, preset
from mmlib.train.stage import Stage, train
from scripts import rivals as contest

BEAMS = (1, 5, 10)
# jemalloc's settings that keep freed memory for ten seconds. Kept for ever, it fills the machine.
KEEPING = "dirty_decay_ms:10000,muzzy_decay_ms:10000,oversize_threshold:0"
WRITTEN = 30  # tokens of a reading whose time does not depend on what is read
STAGES: tuple[type[Stage], ...] = (ContrastObjective, Attend, Finetune)
Rows = list[dict[str, Any]]


def wait() -> None:
    """Wait until the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each call, (repeats,), the calls taking turns; the first round only warms up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            wait()
            started = time.perf_counter()
            call()
            wait()
            found[name].append(time.perf_counter() - started)
    return {name: np.array(times[1:]) for name, times in found.items()}


def row(
    what: str, values: Sequence[float] | np.ndarray, unit: str, **setting: Any
) -> dict[str, Any]:
    """A result: median and quartiles of the values, n of them."""
    low, middle, high = np.quantile(np.asarray(values, float), (0.25, 0.5, 0.75)).tolist()
    spread = {"median": middle, "low": low, "high": high, "n": len(values), "unit": unit}
    return {"what": what, **setting, **spread}


def memory() -> dict[str, Any]:
    """The most memory that this process has held so far."""
    if torch.cuda.is_available():
        most, where = torch.cuda.max_memory_allocated() / 2**20, "GPU"
    else:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        most, where = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, "process"
    return row("memory, most", [most], "MiB", where=where)


def count_parameters(model: torch.nn.Module) -> int:
    """How many weights a model has."""
    return sum(p.numel() for p in model.parameters())


# --- reading --------------------------------------------------------------------------------------


def endless(vocabulary: Vocabulary) -> Recogniser:
    """Our large model with random weights, which never ends an expression of its own accord.

    So all readings are equally long.
    """
    torch.manual_seed(0)
    model = Recogniser(len(vocabulary), LARGE)
    with torch.no_grad():
        model.decoder.logits.bias[[vocabulary.sos, vocabulary.eos]] = -1e4
    return channels_last(model, device()).eval()


def reading(repeats: int = 7) -> Rows:
    """Seconds per picture: our large model with random weights, and the recogniser that ships."""
    vocabulary = Vocabulary.crohme()
    model = endless(vocabulary)
    calls, settings = {}, {}
    for height, width in contest.SIZES:
        for batch, beam in (*((1, beam) for beam in BEAMS), (16, BEAMS[1])):
            x = (torch.rand(batch, 1, height, width, device=device()) > 0.95).float()
            valid = torch.ones(batch, 1, height // 8, width // 8, device=device())
            name = f"{height} {width} {batch} {beam}"
            settings[name] = {"height": height, "width": width, "batch": batch, "beam": beam,
                              "tokens": WRITTEN, "parameters": count_parameters(model)}
            calls[name] = partial(_read, model, x, valid, vocabulary, beam)
    rows = []
    for name, times in seconds(calls, repeats).items():
        each = times / settings[name]["batch"]
        rows.append(row("read a picture, our large model", each, "s", **settings[name]))
    with contextlib.suppress(FileNotFoundError):  # where no recogniser ships
        rows += _read_formulas(Reader.load(device=device()))
    return [*rows, memory()]


def _read_formulas(reader: Reader) -> Rows:
    """Seconds of a reader per synthetic formula, one at a time."""
    pack = synthetic_pack("test")
    inks = [(pack[i].points, pack[i].stroke, 1.0) for i in range(24)]
    what, parameters = "read a formula, the recogniser that ships", count_parameters(reader.model)
    rows = []
    for beam, sizes in (*((beam, (1.0,)) for beam in BEAMS), (5, THREE_SIZES)):
        calls = [{"one": partial(reader.read, [ink], beam, sizes=sizes)} for ink in inks]
        times = [seconds(call, 3)["one"].min() for call in calls]
        setting = {"batch": 1, "beam": beam, "parameters": parameters, "sizes": len(sizes)}
        rows.append(row(what, times, "s", **setting))
    return rows


@torch.no_grad()
def _read(model: Recogniser, x: torch.Tensor, valid: torch.Tensor, vocabulary: Vocabulary,
          beam: int) -> None:
    with autocast(device()):
        beam_search(model, model.encode(x, valid).memory, vocabulary, beam, WRITTEN - 1)


@torch.no_grad()
def steps(repeats: int = 5) -> Rows:
    """Seconds of a decoding step against the tokens before it, with a cache and without.

    Our large model at 128 x 512, beam 10 in both directions; without a cache a step runs the whole
    prefix again.
    """
    vocabulary = Vocabulary.crohme()
    model, valid = endless(vocabulary), torch.ones(1, 1, 16, 64, device=device())
    encoded = model.encode(torch.rand(1, 1, 128, 512, device=device()), valid)
    here, rows, found = model.decoder.prepare(encoded.memory), 20, []
    for length in (1, 10, 20, 40, 80, 120):
        tokens = torch.randint(5, len(vocabulary), (rows, length), device=device())
        cache = Cache(rows // 2)
        parents = torch.arange(rows, device=device()).view(2, -1) % cache.beam
        for t in range(length - 1):
            model.decoder(tokens[:, t : t + 1], here, cache)
        kept = dict(cache.layers), cache.bias

        def one(tokens: torch.Tensor, cache: Cache, kept: tuple[Any, Any], parents: torch.Tensor,
                t: int) -> None:
            (cache.layers, cache.bias), cache.t = kept, t
            model.decoder(tokens[:, -1:], here, cache)
            cache.select(parents)

        cached = partial(one, tokens, cache, kept, parents, length - 1)
        calls = {"cached": cached, "whole prefix": partial(model.decoder, tokens, here)}
        for way, times in seconds(calls, 4 * repeats).items():
            found.append(row("decoding step", times, "s", way=way, written=length))
    return found


# --- training -------------------------------------------------------------------------------------


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write: all their tensors, as if nothing stayed in a cache."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, out))
            self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return out


def peaks(repeats: int = 5) -> tuple[float, float]:
    """What this device reaches: operations per second of a product, bytes per second of a copy."""
    n = 8_192 if torch.cuda.is_available() else 1_024
    kind = torch.bfloat16 if native_bfloat16(device()) else torch.float32
    a, source = torch.rand(n, n, device=device(), dtype=kind), torch.rand(1 << 25, device=device())
    target = torch.empty_like(source)
    times = seconds({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, repeats)
    return 2 * n**3 / times["product"].min(), 2 * source.nbytes / times["copy"].min()


def timed(kind: type[Stage], config: Any, count: int,
          begin: Callable[[], object] = lambda: None) -> np.ndarray:
    """Time a stage's training over `count` steps from random weights; before them, call `begin`.

    Returns (count, 3): seconds of each step, of which waiting for its batch, and expressions.
    """
    marks: list[tuple[float, float, int]] = []

    class Watched(kind):  # type: ignore[misc, valid-type]
        """The stage, with an eye on the clock whenever it asks for a batch."""

        def feed(self) -> Any:
            plain = super().feed()

            def watched(start: int = 0) -> Generator[tuple[int, Batch]]:
                batches = plain(start)
                begin()
                while True:
                    asked = time.perf_counter()
                    batch = next(batches)
                    marks.append((asked, time.perf_counter(), batch[0]))
                    yield batch

            return watched

    with tempfile.TemporaryDirectory() as folder, elsewhere("MMLIB_RESULTS", folder):
        try:
            train(Watched, config, "desk", max_steps=count, progress=False)
        except Paused:
            marks.append((time.perf_counter(), 0.0, 0))
    asked, given, pictures = np.array(marks).T
    return np.stack([np.diff(asked), (given - asked)[:-1], pictures[:-1]], 1)


def counted(kind: type[Stage], config: Any, count: int = 3) -> tuple[float, float]:
    """Operations and bytes of `count` training steps, for each picture (two views are two)."""
    with FlopCounterMode(display=False) as flops, Traffic() as moved:

        def begin() -> None:
            flops.flop_counts.clear()
            moved.bytes = 0

        pictures = timed(kind, config, count, begin)[:, 2].sum() * views_of(kind.name, vars(config))
    return flops.get_total_flops() / pictures, moved.bytes / pictures


def training(profile: str = "desk", dataset: str = "auto", count: int = 80) -> Rows:
    """Pictures per second of each stage (two views are two), and the limits of its step."""
    arithmetic, traffic = peaks()
    found = [row("arithmetic that a large product reaches", [arithmetic / 1e9], "GFLOP/s"),
             row("traffic that a copy reaches", [traffic / 1e9], "GB/s")]
    for kind in STAGES:
        alone = {} if kind is ContrastObjective else {"init": "none"}
        config = preset(kind.name, profile, dataset=dataset, seed=0, eval_pictures=10**9, **alone)
        views = views_of(kind.name)
        operations, bytes_ = counted(kind, config)
        # The first steps warm up, and the first batch waits for its epoch.
        times = timed(kind, config, count)[3:]
        parts = [part.sum(0) for part in np.array_split(times, len(times) // 4)]
        rate = [views * part[2] / part[0] for part in parts]
        waits = [part[1] / part[0] for part in parts]
        setting = {"stage": kind.name, "profile": profile, "dataset": dataset}
        found += [row("training", rate, "pictures/s", **setting),
                  row("share of a step that waits for its batch", waits, "", **setting),
                  row("limit by arithmetic", [arithmetic / operations], "pictures/s", **setting),
                  row("limit by traffic", [traffic / bytes_], "pictures/s", **setting),
                  row("operations", [operations / 1e9], "GFLOP/picture", **setting),
                  row("traffic", [bytes_ / 1e9], "GB/picture", **setting)]
    return [*found, memory()]


def study() -> Rows:
    """Operations of the study's trainings, a row per question and seed; shared ones count once."""
    each: dict[str, float] = {}
    with mock.patch.object(packing, "WORTH", 0.0):  # a GPU computes the padding, too
        for kind in STAGES:
            alone = {} if kind is ContrastObjective else {"init": "none"}
            config = preset(kind.name, "study", dataset="crohme", eval_most=8, **alone)
            each[kind.name] = counted(kind, config, 6)[0]
    found = [row("operations", [each[name] / 1e9], "GFLOP/picture", stage=name) for name in each]
    for question, members in questions(Budget.of()).items():
        spent = {}
        for arm, chain in members.items():
            run = ""
            for name, config in configs(Cell(arm), chain).items():
                run += str(config)
                spent[run] = each[name] * config.pictures * views_of(name, vars(config))
        found.append(row("operations of one seed", [sum(spent.values()) / 1e15], "PFLOP",
                         question=question, arms=len(members), trainings=len(spent)))
    return found


def pipeline(profile: str = "desk", dataset: str = "auto", repeats: int = 5) -> Rows:
    """Pictures per second of fine-tuning's input: drawing samples (one process), rendering, both.

    Also the share of a training step that rendering takes.
    """
    config = preset("finetune", profile, dataset=dataset, init="none", eval_pictures=10**9)
    corpus = load_corpus(dataset)
    some = corpus.train[:1_000]
    augmenter = Augmenter(corpus.pack, some, config.augment, corpus.vocabulary)
    area, most = config.batch_area, config.batch_most
    feed = Feed([(augmenter, None)], area, most, 0, scale=config.view.scale)
    started = time.perf_counter()
    groups = feed.epoch(0)
    drawn = sum(map(len, groups)) / (time.perf_counter() - started)
    batches = [collate(group) for group in groups[:12]]

    def render(batch: Batch) -> View:
        return make_view(batch.ink.to(device()), config.view, torch.Generator().manual_seed(0))

    times = seconds({str(k): partial(render, b) for k, b in enumerate(batches)}, repeats)
    rendered = sum(len(b.tokens) for b in batches) / np.sum(list(times.values()), axis=0)
    step = timed(Finetune, config, 15)[3:]
    rate = step[:, 2].sum() / step[:, 0].sum()
    alone = "input alone, an encoder that does nothing"
    setting = {"profile": profile, "dataset": dataset}
    return [
        row("drawing samples, one process", [drawn], "pictures/s", **setting),
        row("rendering", rendered, "pictures/s", **setting),
        row(alone, 1 / (1 / drawn + 1 / rendered), "pictures/s", **setting),
        row("rendering's share of a training step", rate / rendered, "", **setting),
        memory(),
    ]


# --- rivals ---------------------------------------------------------------------------------------


def rivals(repeats: int = 5, batch: int = 8, tokens: int = 25) -> Rows:
    """Pictures per second of a training step of the rivals, taking turns, on full canvases."""
    found = []
    for height, width in contest.SIZES:
        setting = {"height": height, "width": width, "batch": batch, "tokens": tokens}
        calls = contest.steps(batch, tokens, height, width)
        times = seconds(calls, repeats)
        for name, call in calls.items():
            size = {"parameters": count_parameters(call.args[0])}
            speed = batch / times[name]
            found.append(row(f"training step, {name}", speed, "pictures/s", **setting, **size))
        ratio = times[contest.DENSENET] / times[contest.OURS]
        found.append(row("our large model over the DenseNet", ratio, "", **setting))
    return [*found, memory()]


def learning(pictures: int = 20_000) -> Rows:
    """Validation loss per token of the rivals, trained alike; goes on where it was stopped.

    A row for each validation. Last ours minus each other, whose low and high are a 95 % interval
    that resamples expressions (one training each, so it says nothing of other seeds).
    """
    found, differences = [], []
    for how, side in contest.TRAININGS.items():
        runs = {name: contest.train_rival(name, pictures, side=side) for name in contest.MODELS}
        ends = {name: contest.losses_of(run) for name, run in runs.items()}
        for name, run in runs.items():
            setting = {"model": name, "losses": how, "parameters": run.summary["parameters"]}
            for one in run.metrics():
                if "valid_loss" in one:
                    counts = {"pictures": one["pictures"], "expressions": one["valid_n"]}
                    loss = [one["valid_loss"]]
                    found.append(row("validation loss", loss, "nats/token", **setting, **counts))
        ours, run = contest.OURS, runs[contest.OURS]
        for other in contest.MODELS[1:]:
            less = interval(ends[ours][:, 1] - ends[other][:, 1], ends[ours][:, 0])
            differences.append({"what": f"validation loss, {ours} minus {other}", "losses": how,
                                "median": less.value, "low": less.low, "high": less.high, "n": 1,
                                "unit": "nats/token", "pictures": pictures, "expressions": less.n,
                                "data": run.inputs["data"], "trained": run.environment["hardware"]})
    return found + differences


# --- all of it ------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[], Rows]] = {
    "reading": reading, "steps": steps, "training": training, "study": study,
    "pipeline": pipeline, "rivals": rivals, "learning": learning,
}
LONG = ("learning",)  # left out where no section is named


def machine() -> str:
    """The hardware, and the allocator where one was preloaded.

    Batches of many shapes tell allocators apart, above all one that gives no memory back.
    """
    mapped = ""
    with contextlib.suppress(OSError):
        mapped = Path("/proc/self/maps").read_text()
    found = [name for name in ("jemalloc", "tcmalloc") if f"lib{name}" in mapped]
    settings = os.environ.get("MALLOC_CONF", "").split(",")
    if "jemalloc" in found and set(KEEPING.split(",")) <= set(settings):
        found[found.index("jemalloc")] = "jemalloc with slow decay"
    return ", ".join([hardware(), *found])


def measure(section: str) -> Rows:
    """Measure one section in this process, and keep its rows with all that they depend on."""
    started, where, path = time.monotonic(), machine(), results_root() / "benchmarks.json"
    rows = SECTIONS[section]()
    minutes = round((time.monotonic() - started) / 60, 2)
    about = {"section": section, "hardware": where, "threads": torch.get_num_threads(),
             "versions": versions(), "commit": commit(), "utc": utc(), "minutes": minutes,
             "rows": rows}
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    found = [one for one in kept if (one["section"], one["hardware"]) != (section, where)]
    found = sorted([*found, about], key=lambda one: (one["section"], one["hardware"]))
    write_atomic(path, "[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")
    return rows


def lines(rows: Rows) -> list[str]:
    """A section's rows as text."""
    known = ("what", "median", "low", "high", "n", "unit")
    found = []
    for r in rows:
        setting = ", ".join(f"{k} {v}" for k, v in r.items() if k not in known)
        value = f"{r['median']:10.4g} [{r['low']:.4g}, {r['high']:.4g}] {r['unit']} (n = {r['n']})"
        found.append(f"  {r['what']:44} {setting:60} {value}")
    return found


def show(rows: Rows) -> None:
    """Print a section's rows."""
    print("\n".join(lines(rows)), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure sections, each in a process of its own, so that its memory is its own."""
    parser = argparse.ArgumentParser("scripts.benchmark", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    chosen = parser.parse_args(argv).sections or [name for name in SECTIONS if name not in LONG]
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    for section in chosen:
        print(f"{section}: {(SECTIONS[section].__doc__ or '').splitlines()[0]}", flush=True)
        code = f"from scripts import benchmark as b; b.show(b.measure({section!r}))"
        subprocess.run([sys.executable, "-c", code], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
