"""Make a fine-tuned run the recogniser that ships: `results/checkpoints/`.

Its card is the README there, whose tables are filled like those of other pages.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmlib.read.reader import Reader
from mmlib.store.files import RunError, digest, results_root, write_atomic
from mmlib.store.weights import load_weights, save_weights

LARGEST = 16 * 2**20  # bytes: what a clone should not have to carry more of


def publish(folder: str | Path) -> Path:
    """Copy a finished fine-tuning's half-precision weights to `checkpoints/recogniser.safetensors`.

    What it is read with (configuration, vocabulary) and what it cost (run, pictures, minutes)
    travel in the file. Raises RunError where the file would be larger than 16 MiB.
    """
    reader = Reader.load(folder)
    weights, metadata = load_weights(reader.path)
    size = sum(tensor.nbytes for tensor in weights.values())
    if size > LARGEST:
        megabytes = f"{size / 2**20:.1f} MiB"
        raise RunError(f"{folder}: {megabytes} of weights; a recogniser that ships has at most 16")
    target = results_root() / "checkpoints" / "recogniser.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    cost = {"pictures": reader.pictures, "minutes": round(reader.minutes, 2)}
    about = {**metadata, "run": reader.run, **cost, "licence": "CC BY-NC-SA 3.0"}
    save_weights(target, weights, about)
    # Readings name their weights by digest: those of an older recogniser must stay known.
    digests = {**shipped_digests(), reader.run: digest(target)}
    write_atomic(target.with_name("published.json"), json.dumps(digests, indent=1) + "\n")
    return target


def shipped_digests() -> dict[str, str]:
    """The digest of the weights of each run that has ever shipped: what its evaluations read."""
    path = results_root() / "checkpoints" / "published.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}
