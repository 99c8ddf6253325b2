"""Make a fine-tuned run the recogniser that ships: its weights under `results/checkpoints/`, with a model card drawn from the
records."""

from __future__ import annotations

import json
from pathlib import Path

from mmlib.read.reader import Reader
from mmlib.store.runs import RunError, digest, find_runs, load_weights, results_root, save_weights, sizes_of, write_atomic
from mmlib.study.records import load

PUBLISHED = "published.json"
LARGEST = 16 * 2**20  # bytes: what a clone should not have to carry more of
STARTS = {"none": "supervised alone, from random weights",
          "recogniser": "supervised alone, trained on from the weights that shipped before, which had begun at random"}
METRICS = ("exprate", "within1", "within2", "within3", "ter", "structure")


def publish(folder: str | Path) -> Path:
    """Copy a finished fine-tuning's half-precision weights to `results/checkpoints/recogniser.safetensors`.

    What it is read with (configuration, vocabulary) and what it cost (run, pictures, minutes) travel in the file. Raises RunError
    where the file would be larger than 16 MiB.
    """
    reader = Reader.load(folder)
    weights, metadata = load_weights(reader.path)
    size = sum(tensor.nbytes for tensor in weights.values())
    if size > LARGEST:
        raise RunError(f"{folder}: {size / 2**20:.1f} MiB of weights; a recogniser that ships has at most 16")
    target = results_root() / "checkpoints" / "recogniser.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(target, weights, {**metadata, "run": reader.run, "pictures": reader.pictures,
                                   "minutes": round(reader.minutes, 2), "licence": "CC BY-NC-SA 3.0"})
    write_atomic(target.with_name(PUBLISHED), json.dumps({**published(), reader.run: digest(target)}, indent=1) + "\n")
    return target


def published() -> dict[str, str]:
    """Digest of the weights file of each run that has ever shipped: what its evaluations say that they read with."""
    path = results_root() / "checkpoints" / PUBLISHED
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def model_card() -> str:
    """The card in Markdown, its numbers from the recogniser's own file and its records."""
    reader = Reader.load()
    table = load()
    sizes = {run.name: ", ".join(f"{size:g}" for size in sizes_of(run)) for run in find_runs("evaluate")
             if run.summary.get("trained") == reader.run and not run.config["without"]}
    rows = table[table.run.isin(sizes) & (table.dataset == "crohme") & (table.occlusion == 0) & table.metric.isin(METRICS)]
    rows = rows.assign(sizes=rows.run.map(sizes))
    wide = rows.pivot_table(index=["sizes", "split", "n"], columns="metric", values="value", aggfunc="last")
    lines = ["| CROHME | read at sizes | n | " + " | ".join(METRICS) + " |", "|---|---|---|" + "---|" * len(METRICS)]
    for (drawn, split, n), values in sorted(wide.iterrows(), key=lambda row: (len(row[0][0]), row[0])):
        lines.append(f"| {split} | {drawn} | {n:.0f} | " + " | ".join(f"{values[m]:.3f}" for m in METRICS) + " |")
    start = reader.config.get("init", "none")
    parameters = sum(p.numel() for p in reader.model.parameters())
    return CARD.format(parameters=parameters / 1e6, run=reader.run, pictures=reader.pictures, minutes=reader.minutes,
                       start=STARTS.get(start, f"started from {start}"),
                       table="\n".join(lines), pixels=reader.view.symbol)


def write_card() -> Path:
    """Write the card beside the weights."""
    path = results_root() / "checkpoints" / "README.md"
    write_atomic(path, model_card())
    return path


CARD = """# The recogniser that ships

`recogniser.safetensors`: half-precision weights of a {parameters:.1f}-million-parameter encoder, attention network and
Transformer decoder that reads one handwritten expression and writes canonical LaTeX. Load it with
`mmlib.read.reader.Reader.load()`.

- **Trained on** the training set of CROHME 2014 (8,834 readable inks, less a writer- and formula-disjoint validation part), cut,
  recombined and composed as the README says; {start}; {pictures:,} pictures seen, about {minutes:.0f} minutes of one CPU core.
  Run `{run}`.
- **Reads** pictures drawn at {pixels:.0f} pixels a typical symbol: ink is rasterised, pictures are traced and drawn again.
- **Licence of these weights**: CC BY-NC-SA 3.0, that of their training data: research use, cite the CROHME papers. The code
  is MIT.
- **Not for** full pages, several lines, matrices, or symbols outside CROHME's 101 classes. A photograph is cleaned first
  (shading, ruled lines, a tilted page): crop it to one formula, upright.

Rates (0 to 1) on canonical tokens, beam 5 in both directions with joint scoring; `ter` is token errors over reference tokens.
Sizes are relative to the recogniser's own; where several are named, each is searched, and every hypothesis is scored by all.
`test_2016` is 256-pixel pictures, not ink, so it does not compare with published rows. Unreadable labels count as wrong.

{table}
"""
