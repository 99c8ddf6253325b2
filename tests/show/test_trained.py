"""Notebooks draw from committed weights where these are there, and say whose they drew from."""

import pytest
import torch

from mmlib.show.trained import trained_contrast, trained_student
from mmlib.store.run import Run
from mmlib.store.weights import save_weights
from mmlib.train import attend, pretrain
from mmlib.train.contrast import Contrast
from mmlib.train.profiles import preset


@pytest.mark.parametrize(("stage", "load"), [(pretrain, trained_contrast),
                                             (attend, trained_student)])
def test_committed_weights_come_first(stage, load, tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIB_RESULTS", str(tmp_path))
    name = stage.__name__.rsplit(".", 1)[1]
    config = preset(name, "smoke")
    run = Run.open(name, "smoke", config, {}, "1")
    network = Contrast(config.encoder) if stage is pretrain else attend.Student(config.encoder,
                                                                                 config.maps)
    state, about = network.state_dict(), {"config": run.config}
    run.weights.parent.mkdir(parents=True)
    save_weights(run.weights, state, about)
    loaded, view, whose = load(run)
    assert not loaded.training
    assert view == config.view
    assert whose.startswith("the run of this notebook (smoke)")
    (tmp_path / "checkpoints").mkdir()
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    save_weights(tmp_path / "checkpoints" / f"{name}.safetensors", zeros, about)
    loaded, _, whose = load(run)
    assert whose.startswith("trained on CROHME")
    assert all(not value.any() for value in loaded.state_dict().values())
