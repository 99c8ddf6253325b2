"""How fast it is, and why: `python -m scripts.benchmark [SECTION…]`, each section in a process of its own, kept in
`results/benchmarks.json`.

Every number is a median over repeats, with quartiles, beside the hardware, threads and commit that gave it. Machines are shared
and noisy: times that are compared are measured in one section, alternating. A loss is of one training. Under another allocator,
and where that keeps freed memory, a section has a file of its own:

    LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF=dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0 \\
        python -m scripts.benchmark training

    reading   seconds to read a picture, by picture size, beam and batch; memory
    steps     seconds of one decoding step against the length written so far: flat with a cache
    training  pictures a second of each stage, beside the two limits of its step: arithmetic, and memory traffic
    pipeline  pictures a second of the input alone (an encoder that does nothing), and of its parts
    rivals    pictures a second of a training step: our large model, the same with a CoMER-style DenseNet as its encoder, and
              with the desk profile's form of encoder
    growth    how opening a pack, an epoch's batches and a training step grow with data, length and batch
    learning  validation loss of those after as many pictures; more than two hours, so only where it is named
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mmlib.data.augment import AugmentConfig, Augmenter
from mmlib.data.batches import Feed
from mmlib.data.corpus import load_corpus, synthetic_pack
from mmlib.data.pack import Pack, write_pack
from mmlib.data.sample import Batch, collate
from mmlib.draw.views import View, make_view
from mmlib.formula.vocabulary import Vocabulary
from mmlib.measure.intervals import paired_difference
from mmlib.models.decoder import Cache
from mmlib.models.layers import autocast, channels_last, native_bfloat16
from mmlib.models.layers import default_device as device
from mmlib.models.recogniser import ModelConfig, Recogniser
from mmlib.models.search import beam_search
from mmlib.read.reader import THREE_SIZES, Reader
from mmlib.store.files import elsewhere, results_root, write_atomic
from mmlib.store.machine import commit, hardware, utc, versions
from mmlib.train.attend import Attend
from mmlib.train.cost import views_of
from mmlib.train.finetune import Finetune
from mmlib.train.loop import Paused
from mmlib.train.pretrain import Pretrain
from mmlib.train.profiles import LARGE, preset
from mmlib.train.stage import Stage, train
from scripts.rivals import DENSENET, LOSSES, MODELS, OURS, SIZES, TRAININGS
from scripts.rivals import steps as steps_of
from scripts.rivals import train as train_rival

BEAMS = (1, 5, 10)
KEEPING = "dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0"  # jemalloc's settings that give no freed memory back
WRITTEN = 30  # tokens of a reading whose time does not depend on what is read
STAGES: dict[str, type[Stage]] = {"pretrain": Pretrain, "attend": Attend, "finetune": Finetune}


def wait() -> None:
    """Until the device has done what it was told."""
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


def row(what: str, values: Sequence[float] | np.ndarray, unit: str, **setting: Any) -> dict[str, Any]:
    """A result: median and quartiles of the values, n of them."""
    low, middle, high = np.quantile(np.asarray(values, float), (0.25, 0.5, 0.75))
    return {"what": what, **setting, "median": float(middle), "low": float(low), "high": float(high), "n": len(values),
            "unit": unit}


def memory() -> dict[str, Any]:
    """The most memory that this process has held so far."""
    if torch.cuda.is_available():
        return row("memory, most", [torch.cuda.max_memory_allocated() / 2**20], "MiB", where="GPU")
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return row("memory, most", [peak / (2**20 if sys.platform == "darwin" else 2**10)], "MiB", where="process")


# --- reading ----------------------------------------------------------------------------------------------------


def endless(model: Recogniser, vocabulary: Vocabulary) -> Recogniser:
    """The model, never ending an expression of its own accord, so that all readings are equally long."""
    with torch.no_grad():
        model.decoder.logits.bias[[vocabulary.sos, vocabulary.eos]] = -1e4
    return channels_last(model, device()).eval()


def reading(repeats: int = 7) -> list[dict[str, Any]]:
    """Seconds a picture: our large model by size, beam and batch, `WRITTEN` tokens, both directions, random weights; and the
    recogniser that ships on synthetic formulas, one at a time."""
    vocabulary = Vocabulary.crohme()
    torch.manual_seed(0)
    model = endless(Recogniser(len(vocabulary), LARGE), vocabulary)
    parameters = sum(p.numel() for p in model.parameters())
    calls, settings = {}, {}
    for height, width in SIZES:
        for batch in (1, 16):
            x = (torch.rand(batch, 1, height, width, device=device()) > 0.95).float()
            valid = torch.ones(batch, 1, height // 8, width // 8, device=device())
            for beam in BEAMS if batch == 1 else BEAMS[1:2]:
                name = f"{height} {width} {batch} {beam}"
                settings[name] = {"height": height, "width": width, "batch": batch, "beam": beam, "tokens": WRITTEN,
                                  "parameters": parameters}
                calls[name] = partial(_read, model, x, valid, vocabulary, beam)
    rows = [row("read a picture, our large model", times / settings[name]["batch"], "s", **settings[name])
            for name, times in seconds(calls, repeats).items()]
    try:
        reader = Reader.load(device=device())
    except FileNotFoundError:
        return [*rows, memory()]
    pack = synthetic_pack("test")
    inks = [(pack[i].points, pack[i].stroke, 1.0) for i in range(24)]
    parameters = sum(p.numel() for p in reader.model.parameters())
    for beam, sizes in (*((beam, (1.0,)) for beam in BEAMS), (5, THREE_SIZES)):
        times = [seconds({"one": partial(reader.read, [ink], beam, sizes=sizes)}, 3)["one"].min() for ink in inks]
        rows.append(row("read a formula, the recogniser that ships", times, "s", batch=1, beam=beam, parameters=parameters,
                        sizes=len(sizes)))
    return [*rows, memory()]


@torch.no_grad()
def _read(model: Recogniser, x: torch.Tensor, valid: torch.Tensor, vocabulary: Vocabulary, beam: int) -> None:
    with autocast(device()):
        beam_search(model, model.encode(x, valid).memory, vocabulary, beam, WRITTEN - 1)


@torch.no_grad()
def steps(repeats: int = 5) -> list[dict[str, Any]]:
    """Seconds of a decoding step of our large model at 128 x 512, beam 10 in both directions, against the tokens before it; and
    of the same step without a cache, which runs the whole prefix again."""
    vocabulary = Vocabulary.crohme()
    torch.manual_seed(0)
    model = endless(Recogniser(len(vocabulary), LARGE), vocabulary)
    memory_ = model.encode(torch.rand(1, 1, 128, 512, device=device()), torch.ones(1, 1, 16, 64, device=device())).memory
    here, rows, found = model.decoder.prepare(memory_), 20, []
    for length in (1, 10, 20, 40, 80, 120):
        tokens = torch.randint(5, len(vocabulary), (rows, length), device=device())
        cache = Cache(rows // 2)
        parents = torch.arange(rows, device=device()).view(2, -1) % cache.beam
        for t in range(length - 1):
            model.decoder(tokens[:, t : t + 1], here, cache)
        kept = dict(cache.layers), cache.bias

        def one(tokens: torch.Tensor, cache: Cache, kept: tuple[Any, Any], parents: torch.Tensor, t: int) -> None:
            (cache.layers, cache.bias), cache.t = kept, t
            model.decoder(tokens[:, -1:], here, cache)
            cache.select(parents)

        cached = partial(one, tokens, cache, kept, parents, length - 1)
        calls = {"cached": cached, "whole prefix": partial(model.decoder, tokens, here)}
        times = seconds(calls, 4 * repeats)
        found += [row("decoding step", t, "s", way=name, written=length) for name, t in times.items()]
    return found


# --- training ---------------------------------------------------------------------------------------------------


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write: the sum of their tensors, as if nothing stayed in a cache."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor))
        return out


def peaks(repeats: int = 5) -> tuple[float, float]:
    """What this device reaches, measured: floating-point operations a second of a large product, bytes a second of a copy."""
    n = 8_192 if torch.cuda.is_available() else 1_024
    a = torch.rand(n, n, device=device(), dtype=torch.bfloat16 if native_bfloat16(device()) else torch.float32)
    source = torch.rand(1 << 25, device=device())
    target = torch.empty_like(source)
    times = seconds({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, repeats)
    return 2 * n**3 / times["product"].min(), 2 * source.nbytes / times["copy"].min()


def trained(stage: str, config: Any, count: int) -> np.ndarray:
    """Time a stage's own loop over `count` steps from random weights: (count, 3) of seconds a step, of which waiting for its
    batch, and expressions. Nothing of the stage is written again here: its feed is watched."""
    marks: list[tuple[float, float, int]] = []

    kind: type[Stage] = STAGES[stage]

    class Watched(kind):  # type: ignore[misc, valid-type]
        def feed(self) -> Callable[[int], Generator[tuple[int, Batch]]]:
            served = super().feed()

            def watched(start: int) -> Generator[tuple[int, Batch]]:
                batches = served(start)
                while True:
                    asked = time.perf_counter()
                    batch = next(batches)
                    marks.append((asked, time.perf_counter(), batch[0]))
                    yield batch

            return watched

    with tempfile.TemporaryDirectory() as folder, elsewhere("MMLIB_RESULTS", folder):  # what is trained to be timed is not kept
        try:
            train(Watched, config, "desk", max_steps=count, progress=False)
        except Paused:
            marks.append((time.perf_counter(), 0.0, 0))
    asked, given, pictures = np.array(marks).T
    return np.stack([np.diff(asked), (given - asked)[:-1], pictures[:-1]], 1)


def training(profile: str = "desk", dataset: str = "auto", count: int = 80) -> list[dict[str, Any]]:
    """Pictures a second of each stage at a profile's sizes (two views are two pictures), and the limits of its step."""
    arithmetic, traffic = peaks()
    found = [row("arithmetic that a large product reaches", [arithmetic / 1e9], "GFLOP/s"),
             row("traffic that a copy reaches", [traffic / 1e9], "GB/s")]
    for stage in STAGES:
        config = preset(stage, profile, dataset=dataset, seed=0)
        config = replace(config, eval_pictures=10**9, **({"init": "none"} if hasattr(config, "init") else {}))
        views = views_of(stage)
        with FlopCounterMode(display=False) as flops, Traffic() as moved:
            seen = views * trained(stage, config, 3)[:, 2].sum()
        times = trained(stage, config, count)[3:]  # the first steps warm up, and the first batch waits for its epoch
        parts = [part.sum(0) for part in np.array_split(times, len(times) // 4)]
        setting = {"stage": stage, "profile": profile, "dataset": dataset}
        counted, bytes_ = flops.get_total_flops() / seen, moved.bytes / seen
        found += [row("training", [views * part[2] / part[0] for part in parts], "pictures/s", **setting),
                  row("share of a step that waits for its batch", [part[1] / part[0] for part in parts], "", **setting),
                  row("limit by arithmetic", [arithmetic / counted], "pictures/s", **setting),
                  row("limit by traffic", [traffic / bytes_], "pictures/s", **setting),
                  row("operations", [counted / 1e9], "GFLOP/picture", **setting),
                  row("traffic", [bytes_ / 1e9], "GB/picture", **setting)]
    return [*found, memory()]


# --- input ------------------------------------------------------------------------------------------------------


def pipeline(profile: str = "desk", dataset: str = "auto", repeats: int = 5) -> list[dict[str, Any]]:
    """Pictures a second of fine-tuning's input with an encoder that does nothing: drawing samples (one process), rendering, and
    both; and the share of a training step that rendering takes."""
    config = preset("finetune", profile, dataset=dataset)
    corpus = load_corpus(dataset)
    augmenter = Augmenter(corpus.pack, corpus.train[:1_000], config.augment, corpus.vocabulary)
    feed = Feed([(augmenter, None)], config.batch_area, config.batch_most, 0, scale=config.view.scale)
    started = time.perf_counter()
    groups = feed.epoch(0)
    count = sum(map(len, groups))
    drawn = count / (time.perf_counter() - started)
    batches = [collate(group) for group in groups[:12]]

    def render(batch: Batch) -> View:
        return make_view(batch.ink.to(device()), config.view, torch.Generator().manual_seed(0))

    views = {str(k): partial(render, b) for k, b in enumerate(batches)}
    times = seconds(views, repeats)
    sizes = [len(b.tokens) for b in batches]
    rendered = [sum(sizes) / sum(times[str(k)][i] for k in range(len(batches))) for i in range(repeats)]
    step = trained("finetune", replace(config, init="none", eval_pictures=10**9), 15)[3:]
    rate = step[:, 2].sum() / step[:, 0].sum()
    setting = {"profile": profile, "dataset": dataset}
    return [row("drawing samples, one process", [drawn], "pictures/s", **setting),
            row("rendering", rendered, "pictures/s", **setting),
            row("input alone, an encoder that does nothing", 1 / (1 / drawn + 1 / np.array(rendered)), "pictures/s", **setting),
            row("rendering's share of a training step", [rate / r for r in rendered], "", **setting), memory()]


def rivals(repeats: int = 5, batch: int = 8, tokens: int = 25) -> list[dict[str, Any]]:
    """Pictures a second of a fine-tuning step (both directions, cross-entropy, no optimiser) on full canvases: our large model,
    and the same decoder on a CoMER-style DenseNet and on the desk profile's form of encoder, taking turns."""
    found = []
    for height, width in SIZES:
        setting = {"height": height, "width": width, "batch": batch, "tokens": tokens}
        calls = steps_of(batch, tokens, height, width)
        times = seconds(calls, repeats)
        found += [row(f"training step, {name}", batch / times[name], "pictures/s", **setting,
                      parameters=sum(p.numel() for p in call.args[0].parameters())) for name, call in calls.items()]
        found.append(row("our large model over the DenseNet", times[DENSENET] / times[OURS], "", **setting))
    return [*found, memory()]


def learning(pictures: int = 20_000) -> list[dict[str, Any]]:
    """Validation loss a token of the rivals, trained alike by cross-entropy alone and with side losses: goes on where it was
    stopped.

    A row for each look, and last ours minus each other, whose low and high are a 95 % interval that resamples expressions (one
    training each, so it says nothing of other seeds).
    """
    found, differences = [], []
    for how, side in TRAININGS.items():
        runs = {name: train_rival(name, pictures, side=side) for name in MODELS}
        for name, run in runs.items():
            looks = [one for one in run.metrics() if "valid_loss" in one]
            found += [row("validation loss", [one["valid_loss"]], "nats/token", model=name, losses=how, pictures=one["pictures"],
                          parameters=run.summary["parameters"], expressions=one["valid_n"]) for one in looks]
        ends = {name: np.loadtxt(run.folder / LOSSES, delimiter=",", skiprows=1, usecols=(0, 1)) for name, run in runs.items()}
        for other in MODELS:
            if other != OURS:
                less = paired_difference(ends[OURS][:, 1], ends[other][:, 1], ends[OURS][:, 0])
                differences.append({
                    "what": f"validation loss, {OURS} minus {other}", "losses": how, "median": less.value, "low": less.low,
                    "high": less.high, "n": 1, "unit": "nats/token", "pictures": pictures, "expressions": less.n,
                    "data": runs[OURS].inputs["data"], "trained": runs[OURS].environment["hardware"]})
    return found + differences


def growth(repeats: int = 5) -> list[dict[str, Any]]:
    """Seconds to open a pack and to fill an epoch's batches against its expressions; seconds of encoding and of a decoder's pass
    against picture width and tokens; pictures a second against the batch."""
    pack, vocabulary, found = synthetic_pack("train"), Vocabulary.crohme(), []
    with tempfile.TemporaryDirectory() as folder:
        for count in (300, 3_000, 30_000):
            path = Path(folder, f"{count}.safetensors")
            inks = [pack[i] for i in range(min(count, len(pack)))]
            copies = (replace(ink, id=f"{k}-{ink.id}") for k in range(count // len(inks)) for ink in inks)
            write_pack(((ink, 1.0) for ink in copies), path)
            opened = seconds({"open": partial(Pack.open, path)}, repeats)["open"]
            many = Pack.open(path)
            feed = Feed([(Augmenter(many, np.arange(count), AugmentConfig(), vocabulary), None)], 1_000.0, 48, 0)
            found.append(row("open a pack", opened, "s", expressions=count))
            found.append(row("an epoch's batches", seconds({"epoch": partial(feed.epoch, 0)}, 1)["epoch"], "s",
                             expressions=count))
    model = channels_last(Recogniser(len(vocabulary), ModelConfig()), device()).eval()
    with torch.no_grad():
        calls = {}
        for batch, width in ((1, 128), (1, 256), (1, 512), (1, 1_024), (8, 256), (32, 256)):
            x, valid = torch.rand(batch, 1, 96, width, device=device()), torch.ones(batch, 1, 12, width // 8, device=device())
            calls[f"{batch} {width}"] = partial(model.encode, x, valid)
        for name, times in seconds(calls, repeats).items():
            batch, width = map(int, name.split())
            found.append(row("encode", times / batch, "s", height=96, width=width, batch=batch))
        memory_ = model.encode(torch.rand(8, 1, 96, 256, device=device()), torch.ones(8, 1, 12, 32, device=device())).memory
        tokens = {n: torch.randint(5, len(vocabulary), (8, n), device=device()) for n in (8, 16, 32, 64, 128)}
        for n, times in seconds({str(n): partial(model.decoder, t, memory_) for n, t in tokens.items()}, repeats).items():
            found.append(row("decode whole prefixes", times / 8, "s", written=int(n), batch=8))
    return [*found, memory()]


# --- all of it --------------------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "reading": reading, "steps": steps, "training": training, "pipeline": pipeline, "rivals": rivals, "growth": growth,
    "learning": learning}
LONG = ("learning",)  # left out where no section is named


def path() -> Path:
    """Where benchmarks are kept, a line for each section and machine."""
    return results_root() / "benchmarks.json"


def kept() -> list[dict[str, Any]]:
    """What was measured before."""
    return json.loads(path().read_text(encoding="utf-8")) if path().is_file() else []


def machine() -> str:
    """The hardware, and the allocator where one was preloaded: batches of many shapes tell them apart, and more so where it
    gives no freed memory back to the system."""
    mapped = ""
    with contextlib.suppress(OSError):
        mapped = Path("/proc/self/maps").read_text()
    found = [name for name in ("jemalloc", "tcmalloc") if f"lib{name}" in mapped]
    if "jemalloc" in found and set(KEEPING.split(",")) <= set(os.environ.get("MALLOC_CONF", "").split(",")):
        found[found.index("jemalloc")] = "jemalloc without decay"
    return ", ".join([hardware(), *found])


def run(section: str) -> dict[str, Any]:
    """Measure one section in this process, and keep it: rows, hardware, threads, versions, commit."""
    started, where = time.monotonic(), machine()
    rows = SECTIONS[section]()
    about = {"section": section, "hardware": where, "threads": torch.get_num_threads(), "versions": versions(),
             "commit": commit(), "utc": utc(), "minutes": round((time.monotonic() - started) / 60, 2), "rows": rows}
    others = [other for other in kept() if (other["section"], other["hardware"]) != (section, where)]
    found = sorted([*others, about], key=lambda one: (one["section"], one["hardware"]))
    write_atomic(path(), "[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")
    return about


def run_all(sections: Sequence[str], show: Callable[[str], object] = print) -> None:
    """Measure sections, each in a process of its own, so that its memory is its own."""
    for section in sections or [name for name in SECTIONS if name not in LONG]:
        show(f"{section}: {(SECTIONS[section].__doc__ or '').split(':')[0].split('.')[0]} …")
        code = f"import json; from scripts.benchmark import run; print(json.dumps(run({section!r})))"
        done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
        show("\n".join(lines(json.loads(done.stdout.splitlines()[-1]))))


def lines(about: dict[str, Any]) -> list[str]:
    """A section's rows as text."""
    known = ("what", "median", "low", "high", "n", "unit")
    return [f"  {r['what']:44} {', '.join(f'{k} {v}' for k, v in r.items() if k not in known):60} "
            f"{r['median']:10.4g} [{r['low']:.4g}, {r['high']:.4g}] {r['unit']} (n = {r['n']})" for r in about["rows"]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("scripts.benchmark", description="Measure speed and memory, and keep the results.")
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help=", ".join(SECTIONS))
    run_all(parser.parse_args(argv).sections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
