"""The paper profile's chain: fair budgets, and a rehearsal where only what a bare GPU machine has can be imported."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmlib.formula.vocabulary import Vocabulary
from mmlib.models.recogniser import LARGE, Recogniser
from mmlib.store.runs import Run, RunError, find_runs
from mmlib.study import paper, records
from mmlib.study.paper import chain, collect, follow, operations, plan, take
from mmlib.study.publish import LARGEST

BARE = ("torch", "torchvision", "numpy", "accelerate", "safetensors", "rapidfuzz")


def needed(names):
    """These distributions and all that they need, as pip would install them."""
    found, pending = set(), list(names)
    while pending:
        name = canonicalize_name(pending.pop())
        if name not in found:
            found.add(name)
            asked = map(Requirement, requires(name) or ())
            pending += [r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def test_arms_have_equal_budgets():
    steps = chain("crohme")
    trained = {name: [s for s in steps if s.arm == name and s.stage != "evaluate"] for name in
               ("mask-match", "supervised", "supervised-total")}
    ours, same, total = trained.values()
    assert [s.stage for s in ours] == ["pretrain", "attend", "finetune"]
    assert [s.stage for s in same] == [s.stage for s in total] == ["finetune"]
    assert same[0].views == ours[-1].views
    assert total[0].views == sum(s.views for s in ours)
    assert {s.config.init for s in (*same, *total)} == {"none"}
    for one, other in ((ours[-1], same[0]), (same[0], total[0])):  # alike but for where they start, or how long they learn
        differ = {k for k, v in vars(one.config).items() if v != vars(other.config)[k]}
        assert differ <= {"init", "pictures"}
    assert [(s.arm, s.split) for s in steps if s.stage == "evaluate"] == [
        (arm, split) for arm in trained for split in ("valid", "test_2014", "test_2019")]
    assert sum(s.views for s in chain("crohme", budget=0.5)) == pytest.approx(sum(s.views for s in steps) / 2, rel=1e-3)


def test_plan_takes_the_tighter_bound(monkeypatch):
    monkeypatch.setattr(paper, "operations", lambda step: {"pretrain": 1e9, "attend": 2e9, "finetune": 4e12}[step.stage])
    rows = {row["step"]: row for row in plan(chain("crohme"), seconds_to_draw=0.01)}
    assert rows["mask-match: pretrain"]["pictures/s"] == 2 * paper.DRAWN / 0.01
    assert rows["supervised: finetune"]["pictures/s"] == paper.REACHED / 4e12
    assert rows["supervised: finetune"]["minutes"] == pytest.approx(1_500_000 / 50 / 60)


def test_the_model_is_as_large_as_the_fields_and_can_ship():
    parameters = sum(p.numel() for p in Recogniser(len(Vocabulary.crohme()), LARGE).parameters())
    assert 6e6 < parameters < LARGEST / 2


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Results with a fine-tuned paper run, its reading, and records of that and of another profile."""
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "there"))
    run = Run.open("finetune", "paper", {"seed": 0, "dataset": "crohme"}, {}, "1")
    reading = Run.open("evaluate", "paper", {"split": "valid"}, {}, "1")
    with run.lock():
        run.log(step=1, loss=2.0)
        run.weights.write_bytes(b"weights")
        run.finish(pictures=9)
    with reading.lock():
        (reading.folder / "outcomes.csv").write_text("id\n")
        reading.finish(arm="supervised", trained=run.name)
    row = {"run": reading.name, "stage": "evaluate", "profile": "paper", "arm": "supervised", "dataset": "crohme",
           "split": "valid", "labels": 1, "seed": 0, "metric": "ter", "value": 0.5, "n": 7, "pictures": 9, "minutes": 0.5}
    records.append([row, {**row, "profile": "desk", "metric": "exprate"}])
    return run, reading


def test_there_and_back(finished, tmp_path, monkeypatch):
    run, reading = finished
    assert sorted(path.name for path in collect(tmp_path / "out")) == sorted([f"{run.name}.safetensors", paper.ARCHIVE])
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "here"))
    assert take(tmp_path / "out") == sorted([run.name, reading.name])
    here = Run.load(tmp_path / "here" / "runs" / run.name)
    assert here.done
    assert here.weights.read_bytes() == b"weights"
    assert here.metrics() == [{"step": 1, "loss": 2.0}]
    assert (tmp_path / "here" / "runs" / reading.name / "outcomes.csv").read_text() == "id\n"
    assert records.load()[["metric", "value", "profile"]].values.tolist() == [["ter", 0.5, "paper"]]
    with pytest.raises(RunError, match=r"empty has no results\.tar\.gz"):
        take(tmp_path / "empty")


def test_what_was_read_is_not_read_again(finished, monkeypatch):
    run, _ = finished
    (row,) = (row for row in records.rows() if row["profile"] == "paper")
    records.append([row | {"stage": "probe", "run": "probe-paper-0", "arm": "mask-match"}])  # no reading
    monkeypatch.setattr(paper, "evaluate", lambda *_: pytest.fail("read again"))
    assert paper._read(run, paper.Step("supervised", "evaluate", split="valid"), None)
    assert not paper._read(run, paper.Step("supervised", "evaluate", split="test_2014"), None)
    assert not paper._read(run, paper.Step("mask-match", "evaluate", split="valid"), None)


def test_no_time_is_no_work():
    said = []
    assert not follow(chain("crohme"), max_minutes=0, show=said.append)
    assert said == ["the time is up before mask-match: pretrain; the same command goes on from here"]


@pytest.mark.slow
def test_rehearsal_on_a_bare_machine(tmp_path, monkeypatch):
    """The packs are made here; then every step of the chain, paused and gone on with, where no other package can be imported."""
    small = ("from mmlib.data import corpus\ncorpus.SYNTHETIC = {'train': (80, 1), 'test': (6, 2)}\n"
             "corpus.Corpus.composed.__defaults__ = corpus.Corpus.composed_name.__defaults__ = (40,)\n"
             "from mmlib.models.recogniser import TINY\nfrom mmlib.train import attend, finetune, pretrain\n"
             "from dataclasses import replace\n"
             "for stage, parts in ((pretrain, {'encoder': TINY.encoder}), (finetune, {'model': TINY}),\n"
             "                     (attend, {'encoder': TINY.encoder, 'maps': TINY.maps})):\n"
             "    stage.PRESETS['paper'] = replace(stage.PRESETS['paper'], **parts)\n"
             "from mmlib.cli import main\nimport sys\nsys.exit(main(['paper', '--dataset', 'synthetic', *sys.argv[1:]]))\n")
    (tmp_path / "full.py").write_text(small)
    kept = needed(BARE) | {"mmlib", "setuptools"}
    other = sorted(top for top, owners in packages_distributions().items()
                   if top.isidentifier() and not {canonicalize_name(owner) for owner in owners} & kept)
    assert {"pandas", "scipy", "lxml", "skimage", "matplotlib", "HersheyFonts"} <= set(other)
    (tmp_path / "bare.py").write_text(f"import sys\nfor name in {other}:\n    sys.modules[name] = None\n{small}")
    environment = os.environ | {"MMLIB_CACHE": str(tmp_path / "packs"), "MMLIB_RESULTS": str(tmp_path / "results")}

    def call(script, *options):
        done = subprocess.run([sys.executable, tmp_path / script, *options], env=environment, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, done.stderr[-4_000:]
        return done.stdout

    assert call("full.py", "--prepare").count("MiB") == 3
    said = call("bare.py", "--rehearse", "--max-minutes", "0.02", "--out", str(tmp_path / "out"))
    assert "not done yet" in said
    said = call("bare.py", "--rehearse", "--out", str(tmp_path / "out"))
    assert "the chain is done" in said
    assert said.count("Score(n=4") == 6
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "results"))
    runs = {run.name: run for run in find_runs(profile="paper")}
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert len(sizes) == 4
    weights = [name.removesuffix(".safetensors") for name in sizes if name.endswith(".safetensors")]
    starts = {json.loads((runs[name].folder / "config.json").read_text())["inputs"]["init"].split("-")[0] for name in weights}
    assert starts == {"none", "attend"}


@pytest.mark.slow
def test_operations_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "packs"))
    monkeypatch.setattr("mmlib.data.corpus.SYNTHETIC", {"train": (60, 1), "test": (6, 2)})
    step = chain("synthetic")[0]
    assert 1e9 < operations(step) < 1e11
    assert "MMLIB_RESULTS" not in os.environ or os.environ["MMLIB_RESULTS"] != ""
