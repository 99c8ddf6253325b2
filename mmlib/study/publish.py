"""Make a fine-tuned run the recogniser that ships: `results/checkpoints/`, with a model card."""

from __future__ import annotations

import json
from pathlib import Path

from mmlib.read.reader import Reader
from mmlib.store.files import RunError, digest, results_root, write_atomic
from mmlib.store.weights import load_weights, save_weights
from mmlib.study import records, results

LARGEST = 16 * 2**20  # bytes: what a clone should not have to carry more of
STARTS = {
    "none": "supervised alone, from random weights",
    "recogniser": "supervised alone, trained on from the weights that shipped before, which had "
    "begun at random",
}
METRICS = ("exprate", "within1", "within2", "within3", "ter", "structure")


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
    digests = {**shipped_digests(), reader.run: digest(target)}
    write_atomic(target.with_name("published.json"), json.dumps(digests, indent=1) + "\n")
    return target


def shipped_digests() -> dict[str, str]:
    """The digest of the weights of each run that has ever shipped: what its evaluations read."""
    path = results_root() / "checkpoints" / "published.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def model_card() -> str:
    """The card in Markdown, its numbers from the recogniser's own file and its records."""
    reader, table = Reader.load(), records.load()
    sizes = {
        name: ", ".join(f"{size:g}" for size in row["config"].get("sizes", (1.0,)))
        for name, row in results.run_rows().items()
        if row["stage"] == "evaluate"
        and row["start"] == reader.run
        and not row["config"]["without"]
    }
    rows = table[table.run.isin(sizes) & (table.dataset == "crohme") & (table.occlusion == 0)]
    rows = rows[rows.metric.isin(METRICS)]
    rows = rows.assign(sizes=rows.run.map(sizes))
    index = ["sizes", "split", "n"]
    wide = rows.pivot_table(index=index, columns="metric", values="value", aggfunc="last")
    lines = ["| CROHME | read at sizes | n | " + " | ".join(METRICS) + " |"]
    lines.append("|---|---|---|" + "---|" * len(METRICS))
    ordered = sorted(wide.iterrows(), key=lambda row: (len(row[0][0]), row[0]))
    for (drawn, split, n), values in ordered:
        numbers = " | ".join(f"{values[metric]:.3f}" for metric in METRICS)
        lines.append(f"| {split} | {drawn} | {n:.0f} | {numbers} |")
    start = reader.config.get("init", "none")
    return CARD.format(
        parameters=sum(p.numel() for p in reader.model.parameters()) / 1e6,
        run=reader.run,
        pictures=reader.pictures,
        minutes=reader.minutes,
        start=STARTS.get(start, f"started from {start}"),
        table="\n".join(lines),
        pixels=reader.view.symbol,
    )


def write_card() -> Path:
    """Write the card beside the weights."""
    path = results_root() / "checkpoints" / "README.md"
    write_atomic(path, model_card())
    return path


CARD = """# The recogniser that ships

`recogniser.safetensors`: half-precision weights of a {parameters:.1f}-million-parameter encoder,
attention network and Transformer decoder that reads one handwritten expression and writes canonical
LaTeX. Load it with `mmlib.read.reader.Reader.load()`.

- **Trained on** the training set of CROHME 2014 (8,834 readable inks, less a writer- and
  formula-disjoint validation part), cut, recombined and composed as the README says; {start};
  {pictures:,} pictures seen, about {minutes:.0f} minutes of training. Run `{run}`.
- **Reads** pictures drawn at {pixels:.0f} pixels per typical symbol: ink is rasterised, pictures
  are traced and drawn again.
- **Licence of these weights**: CC BY-NC-SA 3.0, that of their training data: research use, cite the
  CROHME papers. The code is MIT.
- **Beside it** lie the study's small encoder after stage 1 (`pretrain.safetensors`) and attention
  network after stage 2 (`attend.safetensors`), trained without labels, for notebooks 02 and 03.
- **Not for** full pages, several lines, matrices, or symbols outside CROHME's 101 classes. A
  photograph is cleaned first (shading, ruled lines, a tilted page): crop it to one upright formula.

Rates (0 to 1) on canonical tokens, beam 5 in both directions with joint scoring; `ter` is token
errors over reference tokens. Sizes are relative to the recogniser's own; where several are named,
each is searched, and every hypothesis is scored by all. `test_2016_pictures` is pictures of 256
pixels, not ink, so it does not compare with published rows. Unreadable labels count as wrong.

{table}
"""
