"""Several processes: every loss and its gradient are those of one process with the joint batch, and
a run trained by two is one run: one folder, one curve, equal weights, paused and gone on with
together.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import find_runs

from mmlib.data.corpus import synthetic_pack
from mmlib.data.sample import collate, from_pack
from mmlib.draw.views import ViewConfig, make_view
from mmlib.formula.vocabulary import Vocabulary
from mmlib.losses.match import MatchConfig, match_loss
from mmlib.losses.reading import guide_loss, point_loss, sequence_loss
from mmlib.models.recogniser import Recogniser
from mmlib.models.search import prefixes
from mmlib.train import pretrain
from mmlib.train.finetune import symbol_classes
from mmlib.train.launch import launch
from mmlib.train.profiles import TINY, preset

pytestmark = pytest.mark.skipif(not dist.is_available(),
                                reason="this torch has no torch.distributed")
VOCABULARY = Vocabulary.crohme()
EXPRESSIONS, POINTS, MAPS, D, CELLS = 6, 5, 3, 7, (2, 4)
# of the expressions: batches filled by area are not equally large
SHARES = slice(0, 2), slice(2, 6)


def match_and_sequence(share, gather):
    """The losses and the gradient of a layer that they share, for these expressions of the joint
    batch.
    """
    rng = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(EXPRESSIONS, *shape, generator=rng)[share]

    n = len(range(EXPRESSIONS)[share])
    owner = torch.arange(n).repeat_interleave(POINTS)
    layer = torch.eye(D, requires_grad=True)
    mixing = torch.eye(MAPS, requires_grad=True)
    slots, there, pred, target = (
        drawn(MAPS, D) @ layer,
        drawn(MAPS, D),
        drawn(POINTS, D) @ layer,
        drawn(POINTS, D),
    )
    visible, masked = drawn(MAPS) > 0, drawn(POINTS) > 0
    logits = torch.einsum("bkhw,kl->blhw", drawn(MAPS, *CELLS), mixing)
    maps = logits.flatten(2).softmax(-1).view_as(logits)
    here, seen = (
        (drawn(POINTS, MAPS).flatten(0, 1) @ mixing).softmax(0),
        drawn(POINTS, MAPS).flatten(0, 1).softmax(0),
    )
    loss, parts = match_loss(
        MatchConfig(gather=gather),
        student_slots=slots,
        teacher_slots=there,
        visible=visible,
        pred=pred.flatten(0, 1),
        target=target.flatten(0, 1),
        masked=masked.flatten(),
        student_at_points=here,
        teacher_at_points=seen,
        owner=owner,
        maps=maps,
        valid=torch.ones(n, *CELLS, dtype=torch.bool),
        ink=drawn(*CELLS) > 0,
    )
    targets = torch.randint(4, 20, (EXPRESSIONS, 2, 4), generator=rng)
    targets[0, :, 2:] = targets[3, :, 1:] = VOCABULARY.pad
    words = drawn(2, 4, D) @ layer @ torch.randn(D, len(VOCABULARY), generator=rng)
    written = sequence_loss(words, targets[share], VOCABULARY, 0.1, gather)
    (loss + written).backward()
    return torch.cat([torch.stack([*parts.values(), written.detach()]), layer.grad.flatten(),
                      mixing.grad.flatten()])


def side_losses(share, gather):
    """Stage 3's side losses, and their gradient of everything that they reach, for these
    expressions of the joint batch.
    """
    torch.manual_seed(0)
    pack = synthetic_pack("test")
    samples = [from_pack(pack, i) for i in range(EXPRESSIONS)]
    model, batch = Recogniser(len(VOCABULARY), TINY), collate(samples[share])
    view = make_view(batch.ink, ViewConfig(symbol=8.0).still(), torch.Generator())
    inputs, _ = prefixes(batch.tokens, VOCABULARY)
    _, attention, encoded = model(view.picture, view.valid, inputs)
    point = point_loss(model, encoded.features, view, batch.ink, symbol_classes(batch), most=10**6,
                       gather=gather)
    guide = guide_loss(attention, view, batch, VOCABULARY, gather)
    (point + guide).backward()
    reached = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([torch.stack([point, guide]).detach(), *reached])


def on_one_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
                            timeout=timedelta(seconds=60))
    result = torch.cat([match_and_sequence(SHARES[rank], True), side_losses(SHARES[rank], True)])
    dist.all_reduce(result)
    if rank == 0:
        torch.save(result / 2, f"{folder}/mean")
    dist.barrier()
    os._exit(0)  # at a usual exit gloo's threads now and then abort the process


def test_two_processes_give_the_losses_and_gradients_of_the_joint_batch(tmp_path):
    mp.spawn(on_one_process, (str(tmp_path),), nprocs=2)
    everything = slice(0, EXPRESSIONS)
    first, second = match_and_sequence(everything, False), side_losses(everything, False)
    assert (first != 0).all()
    assert (second != 0).float().mean() > 0.5
    joint = torch.cat([first, second])
    torch.testing.assert_close(torch.load(tmp_path / "mean", weights_only=True), joint, atol=1e-5,
                               rtol=0)


SMALL = ["--profile", "smoke", "--batch-most", "4", "--batch-area", "150", "--eval-pictures",
         "1000", "--eval-most", "2", "--pictures", "24"]
UNUSED = ["--model.no-modulate", "--model.no-slots"]  # an attention network that no loss reaches
STAGES = [("pretrain", []), ("pretrain", ["--balance", "1"]), ("pretrain", ["--balance", "0"]),
          ("attend", ["--init", "none"]), ("finetune", ["--init", "none"]),
          ("finetune", ["--init", "none", *UNUSED])]


@pytest.mark.slow
def test_a_run_trained_by_two_processes_is_one_run(tmp_path, monkeypatch):
    """All three stages under `torchrun`, of an encoder with batch norm: paused after a step, then
    finished. Also where a head or the attention network has no part in the loss.
    """
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path / "results"))
    code = (
        "from dataclasses import replace\n"
        "from mmlib.train.profiles import PROFILES, TINY, Profile\n"
        "model = replace(TINY, encoder=replace(TINY.encoder, form='residual', coarse=1))\n"
        "smoke = PROFILES['smoke']\n"
        "PROFILES['smoke'] = Profile(replace(smoke.pretrain, encoder=model.encoder),\n"
        "    replace(smoke.attend, encoder=model.encoder), replace(smoke.finetune, model=model))\n"
        "from mmlib.cli import main\nfrom mmlib.data import corpus\n"
        "from mmlib.store.files import results_root\n"
        "corpus.SYNTHETIC = {'train': (80, 1), 'test': (20, 2)}\n"
        "for limit in (['--max-steps', '1'], []):\n"
        "    assert not list(results_root().glob('runs/*/environment.json'))\n"
        f"    for stage, options in {STAGES}:\n"
        f"        assert main([stage, *{SMALL}, *options, *limit]) == 0\n"
        "from accelerate import PartialState\nassert PartialState().num_processes == 2\n"
    )
    (tmp_path / "small.py").write_text(code)
    environment = os.environ | {"MMLIB_CACHE": str(tmp_path / "packs"), "OMP_NUM_THREADS": "1",
                                "ACCELERATE_USE_CPU": "yes"}

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc_per_node", "2", str(tmp_path / "small.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600,
                          check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert done.stdout.count("paused at") == len(STAGES)  # one process speaks
    assert done.stdout.count(": done") == len(STAGES)
    runs = find_runs()
    assert sorted(run.stage for run in runs) == sorted(stage for stage, _ in STAGES)
    for run in runs:
        rows = [json.loads(line)
                for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        seen = [row["pictures"] for row in rows if "loss" in row]
        assert seen == sorted(set(seen))  # one process writes the curve
        # each step sees a batch of each process
        assert run.summary["pictures"] >= max(24, 2 * run.summary["steps"])
        weights, _ = run.load_weights()
        assert all(w.isfinite().all() for w in weights.values() if w.is_floating_point())
        assert any("running_var" in name for name in weights)


@pytest.mark.slow
def test_a_notebook_launches_two_processes(tmp_path, monkeypatch, capfd):
    """After this process has used its threads and an Accelerator of its own, as a notebook has; and
    a failure is told.
    """
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    torch.rand(300, 300) @ torch.rand(300, 300)
    config = preset("pretrain", "smoke", pictures=24, batch_most=4, batch_area=150.0,
                    eval_pictures=1_000, eval_most=2)
    pretrain.run(replace(config, seed=1, pictures=4), "smoke", progress=False)
    run = launch(pretrain, config, "smoke", processes=2, progress=False)
    assert run.done
    assert run.summary["pictures"] >= 2 * run.summary["steps"]
    assert launch(pretrain, config, "smoke", progress=False).folder == run.folder  # found by one
    with pytest.raises(Exception, match="strides of product"):
        launch(pretrain, replace(config, encoder=replace(config.encoder, strides=(2, 2))), "smoke",
               processes=2, progress=False)
