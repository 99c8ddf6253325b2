"""Runs: hashes, checkpoints that survive damage, curves that resume, nothing executable in the
files.
"""

import dataclasses
import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from mmlib.store import run as run_module
from mmlib.store.files import RunError, project_root
from mmlib.store.run import Run, run_hash
from mmlib.store.weights import load_weights


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    rate: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)
    arm: str = ""


@dataclasses.dataclass(frozen=True)
class Whole:
    part: Config = dataclasses.field(default_factory=Config)
    pictures: int = 9


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(results):
    return Run.open("pretrain", "smoke", Config(), {"data": "0123"}, version="1")


# --- hash -----------------------------------------------------------------------------------------


def test_hash_is_stable_across_sessions():
    # Typed in on purpose: committed results are found by it, so a change of the scheme must be a
    # decision.
    assert run_hash("pretrain", Config(), {"data": "0123"}, "1") == "67384536af"


@pytest.mark.parametrize(
    ("stage", "config", "inputs", "version"),
    [
        ("attend", Config(), {"data": "0123"}, "1"),
        ("pretrain", Config(seed=1), {"data": "0123"}, "1"),
        ("pretrain", Config(sizes=(1, 2, 3)), {"data": "0123"}, "1"),
        ("pretrain", Whole(Config(seed=1)), {"data": "0123"}, "1"),
        ("pretrain", Config(), {"data": "0124"}, "1"),
        ("pretrain", Config(), {"data": "0123", "weights": "ab"}, "1"),
        ("pretrain", Config(), {"data": "0123"}, "2"),
    ],
)
def test_everything_a_run_depends_on_changes_its_hash(stage, config, inputs, version):
    assert run_hash(stage, config, inputs, version) != run_hash(
        "pretrain", Config(), {"data": "0123"}, "1"
    )


def test_a_later_field_is_hashed_where_it_is_used():
    before = {"pictures": 10}
    assert run_hash("s", before | {"pictured": 0.0}, {}, "1") == run_hash("s", before, {}, "1")
    assert run_hash("s", before | {"pictured": 0.1}, {}, "1") != run_hash("s", before, {}, "1")


def test_a_field_that_is_gone_stays_in_the_hash():
    gone = {"positives": "ink", "negatives": "batch"}
    now, other = {"balance": 0.5}, {"seed": 0}  # stage 1's, another stage's
    assert run_hash("s", now, {}, "1") == run_hash("s", now | gone, {}, "1")
    assert run_hash("s", other, {}, "1") != run_hash("s", other | gone, {}, "1")


def test_the_name_of_an_arm_leaves_the_hash_alone():
    named = dataclasses.replace(Config(), arm="mask-match")
    assert run_hash("s", named, {}, "1") == run_hash("s", Config(), {}, "1")


def test_a_configuration_that_json_cannot_hold_is_refused(tmp_path):
    for bad in ({"path": tmp_path}, {"rate": float("nan")}):
        with pytest.raises(RunError, match="numbers, text"):
            run_hash("s", bad, {}, "1")


# --- checkpoints ----------------------------------------------------------------------------------


def model_and_optimizer():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.9))
    return model, optimizer


def train(model, optimizer, generator, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=generator)).square().mean().backward()
        optimizer.step()


def test_a_resumed_training_equals_an_uninterrupted_one(run):
    torch.manual_seed(0)
    model, optimizer = model_and_optimizer()
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(2)
    with run.lock():
        train(model, optimizer, generator, 3)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": generator.get_state(),
        }
        run.save_checkpoint(3, state | {"rng": rng.bit_generator.state, "best": float("inf")})
        expected_draw = rng.random()
    train(model, optimizer, generator, 3)

    other, other_optimizer = model_and_optimizer()
    other_generator, other_rng = torch.Generator(), np.random.default_rng()
    again = Run.load(run.folder)
    with again.lock():
        step, state = again.resume()
    other.load_state_dict(state["model"])
    other_optimizer.load_state_dict(state["optimizer"])
    other_generator.set_state(state["random"])
    other_rng.bit_generator.state = state["rng"]
    train(other, other_optimizer, other_generator, 3)
    assert step == 3
    assert state["best"] == float("inf")
    assert other_rng.random() == expected_draw
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_tensors_that_share_memory_are_saved(run):
    weight = torch.arange(6.0).reshape(2, 3)
    run.save_checkpoint(1, {"a": weight, "b": weight, "c": weight.T})
    _, state = run.load_checkpoint()
    assert torch.equal(state["b"], weight)
    assert torch.equal(state["c"], weight.T)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(run, damage):
    assert run.load_checkpoint() is None
    for step in (100, 2_000, 30_000):
        newest = run.save_checkpoint(step, {"x": torch.full((64,), step)})
    assert len(list(run.folder.glob("checkpoint-*"))) == 2
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"flip": data, "cut": data[:-9], "empty": b""}[damage])
    with pytest.warns(UserWarning, match=newest.name):
        step, state = run.load_checkpoint()
    assert step == 2_000
    assert torch.equal(state["x"], torch.full((64,), 2_000))
    assert newest.with_name(f"{newest.name}.damaged").is_file()
    assert not newest.exists()
    assert run.load_checkpoint()[0] == 2_000  # without a warning


def test_when_all_checkpoints_are_damaged_nothing_is_silently_restarted(run):
    run.save_checkpoint(1, {}).write_bytes(b"?")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(RunError, match="the same command starts again from the beginning"),
    ):
        run.load_checkpoint()
    assert [path.suffix for path in run.folder.glob("checkpoint-*")] == [".damaged"]
    assert run.load_checkpoint() is None


def test_resume_drops_the_rows_logged_after_the_checkpoint(run):
    with run.lock():
        run.log(step=1, loss=torch.tensor(0.5), rate=np.float32(0.25))
        run.save_checkpoint(1, {})
        run.log(step=2, loss=float("nan"))
    assert run.metrics() == [{"step": 1, "loss": 0.5, "rate": 0.25}, {"step": 2, "loss": None}]
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')  # killed while writing
    assert len(run.metrics()) == 2
    with run.lock():
        assert run.resume()[0] == 1
        run.log(step=2, loss=0.1)
    assert [row["loss"] for row in run.metrics()] == [0.5, 0.1]


def test_resume_without_a_checkpoint_starts_the_curve_again(run):
    run.log(step=1, loss=0.5)
    assert run.resume() is None
    assert run.metrics() == []


def test_a_broken_line_in_the_middle_of_a_curve_is_named(run):
    run.log(step=1)
    path = run.folder / "metrics.jsonl"
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 1"):
        run.metrics()


def test_minutes_add_up_over_sittings(run, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(run_module.time, "monotonic", lambda: clock[0])
    with run.lock():
        clock[0] += 120
        run.save_checkpoint(1, {})
    again = Run.load(run.folder)
    clock[0] += 10_000  # nobody was training
    with again.lock():
        again.resume()
        clock[0] += 60
        again.finish()
    assert again.environment["minutes"] == 3.0


# --- runs -----------------------------------------------------------------------------------------


def test_opening_a_run_touches_no_disk(results, run):
    assert not run.done
    assert list(results.iterdir()) == []


def test_a_finished_run_tells_what_it_was(run):
    model, _ = model_and_optimizer()
    with run.lock():
        run.save_checkpoint(1, {})
        run.save_weights(model.state_dict(), {"width": 3, "tokens": ["x", "²"]})
        run.finish(loss=torch.tensor(0.5), pictures=12)
    again = Run.open("pretrain", "smoke", Config(), {"data": "0123"}, version="1")
    assert again.done
    assert again.summary == {"loss": 0.5, "pictures": 12}
    assert again.config == {"seed": 0, "rate": 1e-3, "sizes": [1, 2], "arm": ""}
    weights, metadata = again.load_weights()
    torch.testing.assert_close(weights, dict(model.state_dict()))
    assert metadata == {"width": 3, "tokens": ["x", "²"]}
    assert not list(run.folder.glob("checkpoint-*"))
    environment = again.environment
    assert environment["seed"] == 0
    assert {"python", "torch", "numpy"} <= set(environment["versions"])
    text = (run.folder / "environment.json").read_text() + (run.folder / "config.json").read_text()
    assert str(project_root()) not in text


def test_weights_that_are_missing_or_not_the_runs_own_are_refused(run):
    with pytest.raises(FileNotFoundError, match=run.name):
        run.load_weights()
    run.save_weights({"a": torch.zeros(4)}, {})
    run.finish()
    run.save_weights({"a": torch.ones(4)}, {})
    with pytest.raises(RunError, match="not the file"):
        run.load_weights()
    run.weights.write_bytes(run.weights.read_bytes()[:-3])
    with pytest.raises(RunError, match="safetensors"):
        load_weights(run.weights)


def test_load_names_a_folder_that_holds_no_run(results):
    with pytest.raises(RunError, match=r"config\.json"):
        Run.load(results / "runs" / "nothing")


def _hold(folder, held, let_go):
    with Run.load(folder).lock():
        held.set()
        let_go.wait(30)


def test_two_processes_cannot_write_one_run(run, capsys):
    with run.lock():
        pass
    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(run.folder, held, let_go))
    process.start()
    try:
        assert held.wait(60)
        threading.Timer(0.5, let_go.set).start()
        with run.lock():
            assert let_go.is_set(), "it waits until the other lets go"
        assert "another process works on it" in capsys.readouterr().err
    finally:
        let_go.set()
        process.join(30)


def test_importing_runs_needs_only_the_training_packages():
    code = ("import mmlib.store.run, mmlib.study.records, sys; "
            "print({'pandas', 'lxml', 'matplotlib'} & set(sys.modules))")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=project_root()
    )
    assert done.stdout.strip() == "set()", done.stderr
