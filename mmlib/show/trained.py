"""The networks that notebooks draw from: of committed, trained weights, or of the reader's run."""

from __future__ import annotations

from pathlib import Path

from mmlib.draw.views import ViewConfig
from mmlib.models.encoder import EncoderConfig
from mmlib.store.files import from_json, results_root
from mmlib.store.run import Run
from mmlib.store.weights import load_weights
from mmlib.study import attention_report
from mmlib.train import attend
from mmlib.train.contrast import Contrast


def weights_of(run: Run) -> tuple[Path, str]:
    """The weights of a run's stage, and in words whose.

    They are those of `results/checkpoints/STAGE.safetensors` where that is there: a copy of the
    `weights.safetensors` of a good run. Else they are the run's own.
    """
    committed = results_root() / "checkpoints" / f"{run.stage}.safetensors"
    if committed.is_file():
        return committed, "trained on CROHME (committed weights)"
    return run.weights, f"the run of this notebook ({run.profile}), as no trained weights are here"


def trained_contrast(run: Run) -> tuple[Contrast, ViewConfig, str]:
    """Stage 1's encoder and heads, the view that it was trained with, and whose they are."""
    path, whose = weights_of(run)
    weights, metadata = load_weights(path)
    config = metadata["config"]
    network = Contrast(from_json(EncoderConfig, config["encoder"]), config["balance"],
                       config["level"], config["bounded"])
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    return network.eval(), from_json(ViewConfig, config["view"]), whose


def trained_student(run: Run) -> tuple[attend.Student, ViewConfig, str]:
    """Stage 2's network, the view that it was trained with, and whose it is."""
    path, whose = weights_of(run)
    network, view = attention_report.network_of(*load_weights(path))
    return network, view, whose
