"""Where a trained attention network looks: its saliency on classes of symbols, beside controls that know nothing of content.

Every number compares the saliency *that lies on ink* with the ink: a class's share of the one over its share of the other is
its ratio, and 1 means "as if spread evenly over ink" (`mmlib.measure.attention`). A blind map does not have ratio 1 for every
class, because thin, lone ink has more paper to itself, so each control passes through the same functions, and what counts is
the saliency's lead over it. Labels serve to measure here; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmlib.data.batches import batches_by_area
from mmlib.data.corpus import load_corpus
from mmlib.data.pack import Indices, Pack
from mmlib.data.sample import collate, from_pack
from mmlib.draw.raster import arc_length, densify
from mmlib.draw.views import STRIDE, ViewConfig, make_view
from mmlib.measure.attention import (
    CLASSES,
    Shares,
    class_shares,
    mean_map,
    on_ink,
    shuffled,
    symbol_classes,
    symbol_shares,
)
from mmlib.measure.intervals import interval, paired_difference
from mmlib.models.encoder import EncoderConfig
from mmlib.store.files import from_json, results_root
from mmlib.store.run import Run
from mmlib.study import records, results
from mmlib.train import attend
from mmlib.train.cost import training_cost

if TYPE_CHECKING:
    from pandas import DataFrame

OURS = "mask-match"
FEW = 20  # expressions: of a class that fewer have, nothing is concluded
BLUR = 0.5  # cells; reaches one cell far: a map may lie so far beside the ink, and so may the map uniform over ink
GRID = (16, 64)  # cells on which maps of all sizes are averaged, relative to their canvas


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network makes of one expression, drawn plainly; its own canvas only, no padding."""

    index: int  # in the pack
    maps: np.ndarray  # (k, h, w), each a distribution
    norm: np.ndarray  # (h, w), length of the encoder's feature vector
    points: np.ndarray  # (m, 2) pixels, ink at steps of at most a pixel
    length: np.ndarray  # (m,) arc length there, pixels
    symbol: np.ndarray  # (m,) index into the ink's symbols, -1 for none

    @property
    def saliency(self) -> np.ndarray:
        """(h, w): the mean of the maps."""
        mean: np.ndarray = self.maps.mean(0)
        return mean


def load(run: Run) -> tuple[attend.Student, ViewConfig]:
    """A finished stage 2's network (its teacher, the moving average) and the view it was trained with."""
    weights, metadata = run.load_weights()
    config = metadata["config"]
    student = attend.Student(from_json(EncoderConfig, config["encoder"]), config["maps"])
    student.load_state_dict({k: v.float() for k, v in weights.items()})
    return student.eval(), from_json(ViewConfig, config["view"])


def untrained(student: attend.Student, seed: int = 0) -> attend.Student:
    """A network of the same shape with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return attend.Student(student.encoder.config, student.attention.logits.out_channels).eval()


def course(run: Run, seed: int = 0) -> dict[str, attend.Student]:
    """The network of a finished stage 2 with what it came from: random weights; the encoder of the run that it started from,
    where that is kept, under an untrained attention network; itself."""
    network, _ = load(run)
    found = {"random weights": untrained(network, seed)}
    before = results_root() / "runs" / run.inputs.get("init", "none")
    if (before / "weights.safetensors").is_file():
        found["after stage 1"] = first = untrained(network, seed)
        first.encoder.load_state_dict(attend.encoder_weights(Run.load(before)))
    return found | {"after stage 2": network}


@torch.no_grad()
def see(student: attend.Student, pack: Pack, indices: Indices, view: ViewConfig, area: float = 3_000.0,
        most: int = 64) -> list[Seen]:
    """Maps for the expressions `indices` of a pack, in their order; `area` in square typical symbols a batch."""
    chosen, device = np.asarray(indices), next(student.parameters()).device
    found: dict[int, Seen] = {}
    for group in batches_by_area(pack.sizes[chosen] + 0.4, area, most):
        ink = collate([from_pack(pack, int(i)) for i in chosen[group]]).ink
        assert ink.symbol is not None
        seen = make_view(ink.to(device), view.still(), torch.Generator().manual_seed(0))
        features, attention = student(seen.picture, seen.valid)
        points, source = densify(seen.points.cpu(), ink.stroke, 1.0)
        length, owner, symbol = arc_length(points, ink.stroke[source]), ink.owner[source], ink.symbol[source]
        norm = features.norm(dim=1).cpu().numpy()
        for row, place in enumerate(group):
            own, (w, h) = owner == row, (int(side) // STRIDE for side in seen.extent[row])
            maps = attention.maps[row, :, :h, :w].cpu().numpy().astype(np.float64)
            found[place] = Seen(int(chosen[place]), maps, norm[row, :h, :w], points[own].numpy(), length[own].numpy(),
                                symbol[own].numpy())
    return [found[place] for place in range(len(chosen))]


def position_map(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For maps (h, w) of many expressions, what their mean, a function of relative position alone, says for each: (h, w)."""
    common = mean_map(maps, GRID)
    shapes = {np.shape(m) for m in maps}
    stretched = {shape: mean_map([common], shape) for shape in shapes}
    return [stretched[np.shape(m)] for m in maps]


def arms(seen: Sequence[Seen], plain: Sequence[Seen], seed: int = 0) -> dict[str, list[np.ndarray]]:
    """The saliency maps (h, w) of each arm: ours, and controls. `plain` is what untrained weights see."""
    rng = np.random.default_rng(seed)
    ours = [s.saliency for s in seen]
    return {OURS: ours, "untrained": [s.saliency for s in plain], "encoder-norm": [s.norm.astype(np.float64) for s in seen],
            "position-only": position_map(ours), "flat": [np.ones_like(a) for a in ours],
            "shuffled": [shuffled(s.saliency, rng, _ink_cells(s)) for s in seen]}


def _ink_cells(seen: Seen) -> np.ndarray:
    """(h, w) bool."""
    cells = np.zeros(seen.norm.shape, bool)
    column, row = np.clip(seen.points / STRIDE, 0, np.array(cells.shape[::-1]) - 1).astype(int).T
    cells[row, column] = True
    return cells


def report(student: attend.Student, pack: Pack, indices: Indices, view: ViewConfig, seed: int = 0, blur: float = BLUR,
           n_boot: int = 1000) -> list[dict[str, Any]]:
    """Rows {arm, metric, part, value, low, high, n}: part a class of symbols or '', n expressions, the interval resamples them.

    `ratio` is of the saliency that lies on ink or a cell beside it, 1 for no preference; `lead` (in a control's rows) is our
    ratio minus the control's. Without a class: `on_ink`, the share of the saliency that lies there, and `in_ink`, the share in
    cells that hold ink themselves; of the maps `entropy` and `overlap` as in `mmlib.losses.match`, and `positional`, the share
    of the maps' variance that a map of position alone explains (above 0 without any preference: borders are blank paper).

    Expressions whose symbols are not aligned with their tokens are left out. Raises ValueError when none is left.
    """
    indices = np.asarray(indices)[pack.flat.aligned[np.asarray(indices)]]
    if not len(indices):
        raise ValueError("none of the expressions has symbols that are aligned with its tokens")
    seen = see(student, pack, indices, view)
    plain = see(untrained(student, seed), pack, indices, view)
    rows = [*_diagnose(OURS, seen, n_boot), *_diagnose("untrained", plain, n_boot)]
    inks = [pack[int(i)] for i in indices]
    classes = [symbol_classes(ink) for ink in inks]
    counts = np.array([len(ink.symbols) for ink in inks])
    ours: np.ndarray | None = None
    for arm, maps in arms(seen, plain, seed).items():
        symbols, on = _shares(maps, seen, counts, blur)
        inside = [a[_ink_cells(s)].sum() / a.sum() for a, s in zip(maps, seen, strict=True)]
        rows += [_row(arm, name, "", interval(x, n_boot=n_boot)) for name, x in (("on_ink", on), ("in_ink", inside))]
        parts = [class_shares(s, c) for s, c in zip(symbols, classes, strict=True)]
        saliency, ink = (np.array([getattr(p, name) for p in parts]) for name in ("saliency", "ink"))  # (E, classes)
        ours = saliency if ours is None else ours
        for c, name in enumerate(CLASSES):
            if not ink[:, c].any():
                continue
            n = int((ink[:, c] > 0).sum())
            rows.append(_row(arm, "ratio", name, interval(saliency[:, c], ink[:, c], n_boot=n_boot), n))
            if arm != OURS:
                rows.append(_row(arm, "lead", name, paired_difference(ours[:, c], saliency[:, c], ink[:, c], n_boot=n_boot), n))
    return rows


def _row(arm: str, metric: str, part: str, found: Any, n: int | None = None) -> dict[str, Any]:
    return {"arm": arm, "metric": metric, "part": part, "value": found.value, "low": found.low, "high": found.high,
            "n": found.n if n is None else n}


def _shares(maps: Sequence[np.ndarray], seen: Sequence[Seen], counts: np.ndarray, blur: float
            ) -> tuple[list[Shares], np.ndarray]:
    """Each expression's shares by symbol, of the saliency on ink alone, and the share (E,) of the saliency that is on ink."""
    shares, on = [], np.empty(len(seen))
    for i, (a, s, count) in enumerate(zip(maps, seen, counts, strict=True)):
        values = on_ink(a, s.points, s.length, STRIDE, blur)
        on[i] = (values * s.length).sum() / s.length.sum()
        shares.append(symbol_shares(values / on[i], s.length, s.symbol, count))
    return shares, on


def _diagnose(arm: str, seen: Sequence[Seen], n_boot: int) -> list[dict[str, Any]]:
    """Entropy, overlap and the share of the maps' variance that position explains."""
    k = len(seen[0].maps)
    entropy = [np.mean([-(m * np.log(np.maximum(m, 1e-12))).sum() for m in s.maps]) / np.log(s.norm.size) for s in seen]
    units = [s.maps.reshape(k, -1) / np.linalg.norm(s.maps.reshape(k, -1), axis=1, keepdims=True) for s in seen]
    overlap = [((u @ u.T).sum() - k) / max(k * (k - 1), 1) for u in units]
    blind = [position_map([s.maps[i] for s in seen]) for i in range(k)]  # each map has its own mean
    left, all_of_it = np.zeros((2, len(seen)))
    for e, s in enumerate(seen):
        cells = s.norm.size
        for i in range(k):
            left[e] += ((s.maps[i] - blind[i][e]) ** 2).sum() * cells
            all_of_it[e] += ((s.maps[i] - 1 / cells) ** 2).sum() * cells
    unexplained = interval(left, all_of_it, n_boot=n_boot)
    positional = _row(arm, "positional", "", unexplained) | {"value": 1 - unexplained.value, "low": 1 - unexplained.high,
                                                             "high": 1 - unexplained.low}
    means = {"entropy": entropy, "overlap": overlap}
    return [*(_row(arm, name, "", interval(values, n_boot=n_boot)) for name, values in means.items()), positional]


def record(run: Run, rows: Sequence[Mapping[str, Any]], dataset: str, split: str = "valid") -> None:
    """Append the rows to the records: `attention_ratio:operators`, its bounds `…_low:…`, `…_high:…`."""
    pictures, minutes = training_cost(run)
    shared = {
        "run": run.name, "stage": "attend", "profile": run.profile, "dataset": dataset,
        "split": split, "labels": 0, "seed": run.config["seed"], "pictures": pictures,
        "minutes": minutes, "hardware": run.environment["hardware"],
    }  # fmt: skip
    new = []
    for row in rows:
        part = f":{row['part']}" if row["part"] else ""
        for bound, end in (("value", ""), ("low", "_low"), ("high", "_high")):
            metric = f"attention_{row['metric']}{end}{part}"
            own = {"arm": row["arm"], "n": row["n"], "value": row[bound], "metric": metric}
            new.append(shared | own)
    records.append(new)
    results.collect()


def recorded(metric: str = "ratio", dataset: str = "crohme", split: str = "valid") -> DataFrame:
    """What `record` kept of one metric, from the newest run: columns arm, part, value, low, high, n; empty if nothing."""
    import pandas as pd

    frame = records.load()
    frame = frame[(frame.dataset == dataset) & (frame.split == split) & frame.metric.str.startswith(f"attention_{metric}")]
    if not len(frame):
        return pd.DataFrame(columns=["arm", "part", "value", "low", "high", "n"])
    frame = frame[frame.run == frame.run[frame.utc.idxmax()]]
    name = frame.metric.str.partition(":")
    parts = {kind: frame[name[0] == f"attention_{metric}{bound}"].assign(part=name[2]).set_index(["arm", "part"])
             for kind, bound in (("value", ""), ("low", "_low"), ("high", "_high"))}
    table = {**{kind: part.value for kind, part in parts.items()}, "n": parts["value"].n}
    return pd.DataFrame(table, index=parts["value"].index).reset_index()


def leads(ratio: DataFrame, lead: DataFrame) -> DataFrame:
    """The leads of ours over each control, and over a map uniform over the ink, whose own ratio is 1: ours less 1. Columns as
    in `recorded`."""
    import pandas as pd

    uniform = ratio[ratio.arm == OURS].assign(arm="uniform over ink")
    return pd.concat([lead, uniform.assign(**{bound: uniform[bound] - 1 for bound in ("value", "low", "high")})])


SAID = AHEAD, BEHIND, EVEN, TOO_FEW = ("ahead of every control", "behind a control", "not told apart from a control",
                                       "too few to say")


def said(leads: DataFrame) -> dict[str, str]:
    """What the `leads` of ours say of each class of symbols, one of `SAID`: ahead where every control's interval is above 0,
    behind where any is below, nothing of a class with fewer than `FEW` expressions."""
    return {part: TOO_FEW if own.n.max() < FEW else AHEAD if own.low.min() > 0 else BEHIND if own.high.min() < 0 else EVEN
            for part, own in leads.groupby("part")}


def conclusion() -> dict[str, list[str]]:
    """The classes of symbols by what is `said` of the recorded leads. Empty without any record."""
    found = said(leads(recorded("ratio"), recorded("lead")))
    return {words: [part for part, one in found.items() if one == words] for words in SAID} if found else {}


def measured(run: Run, dataset: str | None = None, keep: bool = False) -> list[dict[str, Any]]:
    """`report` on the validation split of a data set, by default of what stage 2 was trained on; `keep` records it."""
    corpus = load_corpus(dataset or run.config["dataset"])
    student, view = load(run)
    rows = report(student, corpus.pack, corpus.valid, view)
    if keep:
        record(run, rows, corpus.name)
    return rows
