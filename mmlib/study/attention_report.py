"""Where a trained attention network looks: its saliency on classes of symbols, beside controls.

Every number compares the saliency *that lies on ink* with the ink: a class's share of the one over
its share of the other is its ratio, and 1 means "as if spread evenly over ink"
(`mmlib.measure.attention`). A blind map does not have ratio 1 for every class, because thin, lone
ink has more paper to itself. So each control, which knows nothing of content, passes through the
same functions, and what counts is the saliency's lead over it. Labels only measure here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmlib.data.batches import batches_by_area
from mmlib.data.corpus import load_corpus
from mmlib.data.pack import Indices, Pack
from mmlib.data.sample import collate, from_pack
from mmlib.draw.raster import arc_length, densify
from mmlib.draw.views import STRIDE, ViewConfig, make_view
from mmlib.losses.match import map_entropy, map_overlap
from mmlib.measure.attention import (
    CLASSES,
    class_shares,
    mean_map,
    on_ink,
    shuffled,
    symbol_classes,
)
from mmlib.measure.intervals import Interval, interval
from mmlib.models.encoder import EncoderConfig
from mmlib.store.files import from_json
from mmlib.store.run import Run
from mmlib.study import records, results
from mmlib.study.arms import OURS, PROFILE
from mmlib.train import attend
from mmlib.train.cost import training_cost

if TYPE_CHECKING:
    from pandas import DataFrame

CHOICE = 400  # training expressions on which the best map for a class is chosen
FEW = 20  # expressions: of a class that fewer have, nothing is concluded
AREA = 3_000.0  # of a batch, in square typical symbols
BLUR = 0.5  # cells: a map may lie one cell beside the ink, and so may the map uniform over ink
GRID = (16, 64)  # cells on which maps of all sizes are averaged, relative to their canvas


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network makes of one expression, drawn plainly; its own canvas only, no padding."""

    index: int  # in the pack
    maps: np.ndarray  # (k, h, w), each a distribution
    norm: np.ndarray  # (h, w), length of the encoder's feature vector
    points: np.ndarray  # (m, 2) pixels, ink at steps of at most a pixel
    length: np.ndarray  # (m,) arc length there, pixels
    member: np.ndarray  # (classes, m) bool: the classes of each point's symbol

    def heat(self, chosen: int | None) -> np.ndarray:
        """(h, w): the chosen map, or the mean of all."""
        found: np.ndarray = self.maps.mean(0) if chosen is None else self.maps[chosen]
        return found

    @property
    def ink_cells(self) -> np.ndarray:
        """(h, w) bool: cells with ink."""
        cells = np.zeros(self.norm.shape, bool)
        last = np.array(cells.shape[::-1]) - 1
        column, row = np.clip(self.points / STRIDE, 0, last).astype(int).T
        cells[row, column] = True
        return cells


def network_of(weights: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
               ) -> tuple[attend.Student, ViewConfig]:
    """Stage 2's network (the EMA teacher) and its view, from a weights file's content."""
    config = metadata["config"]
    student = attend.Student(from_json(EncoderConfig, config["encoder"]), config["maps"])
    # Masked reading leaves a decoder, too, which no map needs.
    student.load_state_dict({name: weights[name].float() for name in student.state_dict()})
    return student.eval(), from_json(ViewConfig, config["view"])


def untrained(student: attend.Student, seed: int = 0) -> attend.Student:
    """A network of the same shape with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return attend.Student(student.encoder.config, student.attention.logits.out_channels).eval()


@torch.no_grad()
def see(student: attend.Student, pack: Pack, indices: Indices, view: ViewConfig,
        most: int = 64) -> list[Seen]:
    """Maps for (aligned) expressions of a pack, in order; `most` expressions per batch."""
    chosen, device = np.asarray(indices), next(student.parameters()).device
    found: dict[int, Seen] = {}
    for group in batches_by_area(pack.sizes[chosen] + 0.4, AREA, most):
        ink = collate([from_pack(pack, int(i)) for i in chosen[group]]).ink
        assert ink.symbol is not None
        seen = make_view(ink.to(device), view.still(), torch.Generator().manual_seed(0))
        features, attention = student(seen.picture, seen.valid)
        points, source = densify(seen.points.cpu(), ink.stroke, 1.0)
        length = arc_length(points, ink.stroke[source])
        owner, symbol = ink.owner[source], ink.symbol[source].numpy()
        norm = features.norm(dim=1).cpu().numpy()
        for row, place in enumerate(group):
            own, (w, h) = (owner == row).numpy(), (int(side) // STRIDE for side in seen.extent[row])
            maps = attention.maps[row, :, :h, :w].cpu().numpy().astype(np.float64)
            member = symbol_classes(pack[int(chosen[place])])[:, symbol[own]] & (symbol[own] >= 0)
            found[place] = Seen(int(chosen[place]), maps, norm[row, :h, :w], points.numpy()[own],
                                length.numpy()[own], member)
    return [found[place] for place in range(len(chosen))]


def position_map(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each of many maps (h, w) their mean, a function of relative position alone: (h, w)."""
    common = mean_map(maps, GRID)
    shapes = {np.shape(m) for m in maps}
    stretched = {shape: mean_map([common], shape) for shape in shapes}
    return [stretched[np.shape(m)] for m in maps]


def arms(seen: Sequence[Seen], plain: Sequence[Seen], seed: int = 0,
         chosen: tuple[int | None, int | None] = (None, None)) -> dict[str, list[np.ndarray]]:
    """The maps (h, w) of ours and the controls; `plain` is what untrained weights see.

    chosen: which map of ours and of the untrained weights; None for the mean of all.
    """
    rng = np.random.default_rng(seed)
    ours = [s.heat(chosen[0]) for s in seen]
    return {
        OURS: ours,
        "untrained": [s.heat(chosen[1]) for s in plain],
        "encoder-norm": [s.norm.astype(np.float64) for s in seen],
        "position-only": position_map(ours),
        "flat": [np.ones_like(a) for a in ours],
        "shuffled": [shuffled(a, rng, s.ink_cells) for a, s in zip(ours, seen, strict=True)],
    }


def shares(maps: Sequence[np.ndarray], seen: Sequence[Seen]
           ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares (n, classes) of the maps' mass on ink and of the ink; the mass (n,) on ink."""
    found, on = [], np.empty(len(seen))
    for i, (a, s) in enumerate(zip(maps, seen, strict=True)):
        values = on_ink(a, s.points, s.length, STRIDE, BLUR)
        on[i] = (values * s.length).sum() / s.length.sum()
        found.append(class_shares(values / on[i], s.length, s.member))
    mass, ink = np.array(found).swapaxes(0, 1)
    return mass, ink, on


def aligned(pack: Pack, indices: Indices) -> np.ndarray:
    """Of the indices those whose symbols are aligned with their tokens. ValueError for none."""
    chosen: np.ndarray = np.asarray(indices)[pack.flat.aligned[np.asarray(indices)]]
    if not len(chosen):
        raise ValueError("none of the expressions has symbols that are aligned with its tokens")
    return chosen


def best_maps(seen: Sequence[Seen]) -> list[int]:
    """For each class of symbols the map with the largest ratio there."""
    ratios = []
    for k in range(len(seen[0].maps)):
        mass, ink, _ = shares([s.heat(k) for s in seen], seen)
        ratios.append(mass.sum(0) / np.maximum(ink.sum(0), 1e-12))
    return [int(k) for k in np.argmax(ratios, axis=0)]


def report(student: attend.Student, pack: Pack, indices: Indices, view: ViewConfig, seed: int = 0,
           n_boot: int = 1000, choose: Indices = ()) -> list[dict[str, Any]]:
    """Rows {arm, metric, part, value, low, high, n}: part a class of symbols or '', n expressions.

    By class: `ratio`, of the saliency on ink or a cell beside it, 1 for no preference; `lead` (in a
    control's rows), our ratio minus the control's. Without a class: `on_ink`, the share of the
    saliency that lies there; `in_ink`, the share in cells with ink; of the maps `entropy` and
    `overlap` (`mmlib.losses.match`), and `positional`, the share of their variance that position
    alone explains (above 0 without any preference: borders are blank paper).

    choose: other expressions, on which the best single map is chosen for each class, of ours and of
        the untrained weights. `map_ratio` and `map_lead` are of that map, whose place alone and
        whose shuffled copy are controls too.

    Intervals resample expressions. Those whose symbols are not aligned with their tokens are left
    out. Raises ValueError when none is left.
    """
    chosen, networks = aligned(pack, indices), (student, untrained(student, seed))
    seen, plain = (see(of, pack, chosen, view) for of in networks)
    rows = [*_diagnose(OURS, seen, n_boot), *_diagnose("untrained", plain, n_boot)]
    mean: dict[str, tuple[np.ndarray, ...]] = {}
    for arm, maps in arms(seen, plain, seed).items():
        mean[arm] = shares(maps, seen)
        inside = [a[s.ink_cells].sum() / a.sum() for a, s in zip(maps, seen, strict=True)]
        for name, values in (("on_ink", mean[arm][2]), ("in_ink", inside)):
            rows.append(_row(arm, name, "", interval(values, n_boot=n_boot)))
    rows += _by_class(mean, CLASSES, n_boot)
    if len(choose):
        other = aligned(pack, choose)
        best = [best_maps(see(of, pack, other, view)) for of in networks]
        for part, maps_of in zip(CLASSES, zip(*best, strict=True), strict=True):
            single = arms(seen, plain, seed, maps_of).items()
            rows += _by_class({arm: shares(maps, seen) for arm, maps in single}, [part], n_boot,
                              "map_")
    return rows


def _row(arm: str, metric: str, part: str, found: Interval, n: int | None = None
         ) -> dict[str, Any]:
    numbers = {name: getattr(found, name) for name in ("value", "low", "high")}
    return {"arm": arm, "metric": metric, "part": part, **numbers, "n": n or found.n}


def _by_class(found: Mapping[str, tuple[np.ndarray, ...]], parts: Sequence[str], n_boot: int,
              prefix: str = "") -> Iterator[dict[str, Any]]:
    """Ratio, and ours minus a control's, for each arm and class that some expression has.

    found: of each arm what `shares` gives.
    """
    ours = found[OURS][0]
    for arm, (mass, ink, _) in found.items():
        for c in map(CLASSES.index, parts):
            if n := int((ink[:, c] > 0).sum()):
                ratio = interval(mass[:, c], ink[:, c], n_boot=n_boot)
                yield _row(arm, f"{prefix}ratio", CLASSES[c], ratio, n)
                if arm != OURS:  # paired by expression: what is hard for every map cancels
                    less = interval(ours[:, c] - mass[:, c], ink[:, c], n_boot=n_boot)
                    yield _row(arm, f"{prefix}lead", CLASSES[c], less, n)


def _diagnose(arm: str, seen: Sequence[Seen], n_boot: int) -> list[dict[str, Any]]:
    """Entropy and overlap of the maps, and the share of their variance that position explains."""
    k = len(seen[0].maps)
    blind = [position_map([s.maps[i] for s in seen]) for i in range(k)]  # each map has its own mean
    entropy, overlap, left, spread = np.zeros((4, len(seen)))
    for e, s in enumerate(seen):
        cells, maps = s.norm.size, torch.from_numpy(s.maps)[None]
        entropy[e] = map_entropy(maps, torch.ones_like(maps[:, 0], dtype=torch.bool))
        overlap[e] = map_overlap(maps)
        left[e] = sum(((s.maps[i] - blind[i][e]) ** 2).sum() for i in range(k)) * cells
        spread[e] = ((s.maps - 1 / cells) ** 2).sum() * cells
    rest = interval(left, spread, n_boot=n_boot)
    explained = replace(rest, value=1 - rest.value, low=1 - rest.high, high=1 - rest.low)
    return [
        _row(arm, "entropy", "", interval(entropy, n_boot=n_boot)),
        _row(arm, "overlap", "", interval(overlap, n_boot=n_boot)),
        _row(arm, "positional", "", explained),
    ]


def record(run: Run, rows: Sequence[Mapping[str, Any]], dataset: str) -> None:
    """Record the rows: `attention_ratio:operators`, its bounds `…_low:…` and `…_high:…`."""
    pictures, minutes = training_cost(run)
    new = []
    for row in rows:
        own = {key: row[key] for key in ("arm", "value", "low", "high", "n")}
        part = f":{row['part']}" if row["part"] else ""
        new.append(own | {"metric": f"attention_{row['metric']}{part}"})
    results.record(run, new, dataset=dataset, split="valid", labels=0, seed=run.config["seed"],
                   pictures=pictures, minutes=minutes, hardware=run.environment["hardware"])


def recorded(metric: str, dataset: str = "crohme", profile: str = PROFILE) -> DataFrame:
    """What `record` kept of a metric, from the newest run: arm, part, value, low, high, n."""
    import pandas as pd

    frame = records.load()
    name = frame.metric.str.extract(rf"^attention_{metric}(_low|_high|)(?::(.*))?$")
    frame = frame.assign(bound=name[0], part=name[1].fillna("")).dropna(subset="bound")
    frame = frame[(frame.dataset == dataset) & (frame.profile == profile)]
    if frame.empty:
        return pd.DataFrame(columns=["arm", "part", "value", "low", "high", "n"])
    frame = frame[frame.run == frame.run[frame.utc.idxmax()]].set_index(["arm", "part"])
    value, low, high = (frame[frame.bound == bound] for bound in ("", "_low", "_high"))
    found = value[["value"]].assign(low=low.value, high=high.value, n=value.n)
    return found.reset_index()


def leads(ratio: DataFrame, lead: DataFrame) -> DataFrame:
    """Our leads over each control, and over a map uniform over the ink, whose own ratio is 1.

    Columns as in `recorded`.
    """
    import pandas as pd

    uniform = ratio[ratio.arm == OURS].assign(arm="uniform over ink")
    less = {bound: uniform[bound] - 1 for bound in ("value", "low", "high")}
    return pd.concat([lead, uniform.assign(**less)])


AHEAD, BEHIND = "ahead of every control", "behind a control"
EVEN, TOO_FEW = "not told apart from a control", "too few to say"
SAID = AHEAD, BEHIND, EVEN, TOO_FEW


def said(leads: DataFrame) -> dict[str, str]:
    """What our leads say of each class of symbols, one of `SAID`.

    Ahead where every control's interval is above 0, behind where any is below.
    """
    found = {}
    for part, own in leads.groupby("part"):
        few, ahead, behind = own.n.max() < FEW, own.low.min() > 0, own.high.min() < 0
        found[part] = TOO_FEW if few else AHEAD if ahead else BEHIND if behind else EVEN
    return found


def conclusion(of: str = "") -> dict[str, list[str]]:
    """The classes of symbols by what is `said` of the recorded leads. Empty without any record.

    of: '' for the mean of the maps, 'map_' for the best single one.
    """
    found = said(leads(recorded(f"{of}ratio"), recorded(f"{of}lead")))
    by = {words: [part for part, one in found.items() if one == words] for words in SAID}
    return by if found else {}


def measured(run: Run, dataset: str | None = None, keep: bool = False) -> list[dict[str, Any]]:
    """`report` on a data set's validation split, by default of what the run was trained on.

    Best maps are chosen on training ink. keep: also record it.
    """
    corpus = load_corpus(dataset or run.config["dataset"])
    student, view = network_of(*run.load_weights())
    rows = report(student, corpus.pack, corpus.valid, view, choose=corpus.train[:CHOICE])
    if keep:
        record(run, rows, corpus.name)
    return rows
