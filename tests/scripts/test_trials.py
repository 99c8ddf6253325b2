"""The long trials of scripts/trials/ in short: one kill per target, a full disk, some fuzz."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmlib.models.recogniser import Recogniser
from mmlib.store.files import project_root
from mmlib.train.profiles import TINY, preset
from scripts.trials import Campaign, clusters, fuzz, memory
from scripts.trials.second_endpoint import validation_loss


def campaign(name, *options, timeout=400):
    environment = os.environ | {"PYTHONPATH": str(project_root()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"scripts.trials.{name}", *map(str, options)],
        cwd=project_root(),
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_kill_of_each_stage_and_of_the_packer_leaves_no_trace(tmp_path):
    found = campaign(
        "kill", "--times", 4, "--seed", 3, "--pictures", 24, "--out", tmp_path / "kill.json"
    )
    assert found["identical"] == found["kills"] == 4
    assert set(found["by_target"].values()) == {1}


@pytest.mark.slow
def test_a_kill_of_the_study_leaves_no_trace(tmp_path):
    found = campaign(
        "kill", "--times", 1, "--seed", 3, "--targets", "study", "--out", tmp_path / "kill.json"
    )
    assert found["identical"] == found["by_target"]["study"] == 1


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path):
    place = tmp_path / "try"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True
    ).returncode:
        pytest.skip("a small tmpfs cannot be mounted here (not root)")
    subprocess.run(["umount", place], check=True)
    found = campaign(
        "disk", "--times", 4, "--seed", 3, "--pictures", 90, "--out", tmp_path / "disk.json"
    )
    assert found["harmless"] == found["faults"] == 4


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return fuzz.Kinds(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("kind", fuzz.SHARES)
def test_only_documented_errors_come_out(kinds, kind):
    for number in range(60):
        _, _, fault, seconds = fuzz.one(kinds, 7, number, kind)
        assert fault is None
        assert seconds < fuzz.LONGEST


def test_an_undocumented_error_is_a_fault(kinds, monkeypatch):
    monkeypatch.setattr(kinds, "latex", lambda rng: {}["x"])
    assert "KeyError" in fuzz.one(kinds, 7, 0, "latex")[2]


def test_a_campaign_goes_on_where_it_was(tmp_path):
    done = []

    def case(number):
        if number == 2 and len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return {"number": number}

    def summary(cases):
        return {"n": len(cases)}

    path = tmp_path / "x.json"
    with pytest.raises(KeyboardInterrupt):
        Campaign("x", {"seed": 0}, path).run(4, case, summary)
    assert json.loads(path.read_text())["done"] is False
    done.append("stopped")
    found = Campaign("x", {"seed": 0}, path).run(4, case, summary)
    assert done == [0, 1, "stopped", 2, 3]
    assert found["done"]
    assert found["summary"] == {"n": 4}
    assert Campaign("x", {"seed": 1}, path).cases == []


def test_memory_of_readings_is_measured_after_the_warm_up():
    rising = [(500, 100.0), (1000, 200.0), (2000, 200.0), (9000, 200.0), (10_000, 210.0)]
    assert memory.grown(rising) == 0.05
    assert memory.grown([(k, 100.0 + k) for k in range(20)]) > 0.1
    found = memory.trial("torch", 6, 2)
    assert found["count"] == 6
    assert found["changed"] == 0
    assert [number for number, _ in found["mib"]] == [2, 4, 6]
    assert all(mib > 100 for _, mib in found["mib"])


def test_purity_counts_the_most_frequent_class_of_each_cluster():
    found = clusters.agreement([(0, 5), (0, 5), (0, 6), (1, 7)])
    assert (found["units"], found["clusters"], found["classes"]) == (4, 2, 3)
    assert found["purity"] == 0.75
    assert found["most frequent class"] == 0.5
    assert clusters.agreement([(0, 1), (1, 2)])["normalised mutual information"] == 1


def test_the_second_endpoint_is_the_mean_over_all_tokens(corpus):
    torch.manual_seed(0)
    model = Recogniser(len(corpus.vocabulary), TINY).eval()
    view = preset("finetune", "smoke").view
    reader = SimpleNamespace(model=model, vocabulary=corpus.vocabulary, view=view)
    some = replace(corpus, valid=corpus.valid[:5])
    each = [validation_loss(reader, replace(corpus, valid=some.valid[i : i + 1])) for i in range(5)]
    tokens = [len(corpus.pack.tokens(int(i))) + 1 for i in some.valid]
    mean = validation_loss(reader, some)
    assert mean == pytest.approx(np.average(each, weights=tokens), rel=1e-4)
    assert len(set(tokens)) > 1
    torch.nn.init.zeros_(model.decoder.logits.weight)
    torch.nn.init.zeros_(model.decoder.logits.bias)
    assert validation_loss(reader, some) == pytest.approx(np.log(len(corpus.vocabulary)), rel=1e-5)


def test_the_page_says_what_the_memory_trial_recorded():
    page = (project_root() / "docs" / "anywhere.md").read_text("utf-8")
    recorded = json.loads((memory.OUTCOMES / "memory.json").read_text("utf-8"))["readers"]
    rows = {"page": "the page", "onnx": "ONNX", "torch": "PyTorch |",
            "torch, 1,024 products kept": "PyTorch, as it was before"}
    for name, begins in rows.items():
        warm, end = memory.levels(recorded[name]["mib"])
        count, growth = recorded[name]["count"], 100 * (end / warm - 1)
        found = f"{count:,} | {warm:.0f} to {end:.0f} | {growth:.0f} %"
        assert any(line.startswith(f"| {begins}") and found in line for line in page.splitlines())
