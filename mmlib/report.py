"""Tables and frames for the notebooks, from the committed results alone: records, published rows, run folders.

Nothing here trains, and nothing is typed by hand: what has no record says so. Intervals resample seeds and expressions
(`mmlib.metrics.intervals`); with one seed an arm, they are about the expressions only, and no claim about arms follows.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmlib import ablate, records
from mmlib.metrics.intervals import Interval, holm, interval, paired_difference
from mmlib.metrics.recognition import Outcomes
from mmlib.runs import Run, RunError, find_runs, results_root, training_cost, views_of, write_atomic
from mmlib.story import as_batch, depth

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from mmlib.ink import Ink
    from mmlib.plots import Look
    from mmlib.recognize import Reader

NO_RECORD = "no record yet"
COMPARED = ("mask-match", "supervised", "supervised-total")
HEADLINE = (*COMPARED, "recogniser")  # and one that was trained for longer, where there is one
# Choices that do not make another arm: what a run is trained on, by which seed, for how long, and how often it is looked at.
_SAME_ARM = {"dataset", "seed", "init", "labels", "pictures", "full_data", "eval_pictures", "eval_most"}
METRICS = {"ter": "TER", "exprate": "ExpRate", "within1": "≤1", "within2": "≤2", "within3": "≤3", "structure": "structure",
           "hallucination": "hallucinated"}


# --- runs and arms ----------------------------------------------------------------------------------------------


def arm_of(run: Run) -> str:
    """The arm that a run belongs to: what its evaluation called it, else what its configuration says.

    pretrain: 'simclr', 'dense' or 'contrastive' by its balance, or another objective's name; attend: 'mask-match'; finetune: by
    what it starts from, 'supervised' and, with more than the preset's pictures, 'supervised-total' for random weights. A choice
    that differs from the profile's preset is appended, as in 'mask-match, schedule=fixed'.
    """
    if run.stage == "evaluate":
        return run.summary["arm"] or run.name
    if run.stage == "finetune":
        named: set[str] = {other.summary["arm"] for other in find_runs("evaluate") if other.summary.get("trained") == run.name
                 and other.summary["arm"] and not other.config["without"]}
        if named:  # an arm's run may ship as the recogniser, too
            return min(named, key=lambda name: (name == "recogniser", name))
    config, preset = run.config, json.loads(json.dumps(asdict(ablate.STAGES[run.stage].Config.preset(run.profile))))
    changes = [f"{key}={value}" for key, value in _leaves(config) if dict(_leaves(preset)).get(key) != value
               and key.split(".")[0] not in _SAME_ARM]
    if run.stage == "pretrain":
        changes = [c for c in changes if not (c.startswith("balance=") and config["balance"] in (0, 1))]
        changes = [c for c in changes if not c.startswith("objective=")]
        name = {1.0: "simclr", 0.0: "dense"}.get(config["balance"], "contrastive")
        name = name if config.get("objective", "contrast") == "contrast" else config["objective"]
    elif run.stage == "attend":
        start = _start_arm(run)
        name = "mask-match" if start == "contrastive" else f"mask-match from {start}"
    else:
        more = config["pictures"] > preset["pictures"]
        name = _start_arm(run)
        if config["full_data"]:
            name = "recogniser"
        elif name == "random weights":
            name = "supervised-total" if more else "supervised"
        elif more:
            name += f", {config['pictures']:,} pictures"
    return ", ".join([name, *changes])


def _start_arm(run: Run) -> str:
    """The arm of the run whose weights this one starts from."""
    init: str = run.config["init"]
    if init in ("none", "pretrain", "attend"):
        return {"none": "random weights", "pretrain": "contrastive", "attend": "mask-match"}[init]
    try:
        return arm_of(Run.load(results_root() / "runs" / init))
    except RunError:
        return init


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def earlier_cost(run: Run) -> tuple[float, float]:
    """Pictures and minutes of the stages before a run, each view a picture; NaN where those runs are not kept here."""
    before = run.inputs.get("init", "none")
    if before == "none":
        return 0.0, 0.0
    try:
        return training_cost(Run.load(results_root() / "runs" / before))
    except RunError:
        return np.nan, np.nan


def curves(stage: str, profile: str, keys: Sequence[str], dataset: str | None = None, runs: Sequence[Run] | None = None,
           done: bool = False) -> DataFrame:
    """The curves of a stage's runs, a row for each look.

    Args:
        stage, profile: which runs; `runs` names them instead.
        keys: what to take from the rows of metrics.jsonl, such as 'valid_ter'; rows without any of them are left out.
        dataset: only runs on this data set.
        done: only finished runs.

    Returns:
        columns arm, run, seed, labels, pictures (of this stage; two views are two), minutes, total_pictures and total_minutes
        (with the stages before), done, and the keys.
    """
    import pandas as pd

    columns = ["arm", "run", "seed", "labels", "pictures", "minutes", "total_pictures", "total_minutes", "done", *keys]
    rows = []
    for run in find_runs(stage, profile, done) if runs is None else runs:
        if dataset and run.config["dataset"] != dataset:
            continue
        views = views_of(stage, run.config)
        pictures, minutes = earlier_cost(run)
        start = [arm_of(run), run.name, run.config["seed"], run.config.get("labels", 1.0)]
        for row in run.metrics():
            if any(row.get(key) is not None for key in keys):
                rows.append([*start, row["pictures"] * views, row["minutes"], row["pictures"] * views + pictures,
                             row["minutes"] + minutes, run.done, *(row.get(key) for key in keys)])
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(dict.fromkeys(["pictures", "minutes", "total_pictures", "total_minutes", *keys], float))


# --- records ----------------------------------------------------------------------------------------------------


def scored(split: str, dataset: str = "crohme", labels: float = 1.0, profile: str | None = None) -> DataFrame:
    """Records of a split without occlusion: for each arm, seed and metric the newest. Of one profile, or of all but the
    ablations', whose budgets are not comparable with the others'."""
    frame = records.load()
    frame = frame[frame.profile == profile if profile else frame.profile != ablate.PROFILE]
    kept = frame[(frame.dataset == dataset) & (frame.split == split) & (frame.labels == labels) & (frame.occlusion == 0)]
    return kept.sort_values("utc", kind="stable").drop_duplicates(["arm", "seed", "metric"], keep="last")


def arms_table(split: str, arms: Sequence[str] = COMPARED, dataset: str = "crohme", labels: float = 1.0,
               others: bool = True) -> DataFrame:
    """A row for each of `arms`, and for every other arm with a record of this split: means over seeds, as text."""
    import pandas as pd

    frame = scored(split, dataset, labels)
    frame = frame[frame.metric.isin(METRICS)]
    names = list(arms) + [a for a in sorted(set(frame.arm)) if a not in arms and others]
    rows = []
    for arm in names:
        own = frame[frame.arm == arm]
        row = {"arm": arm, "seeds": NO_RECORD, "n": "", "pictures": "", "minutes": ""} | dict.fromkeys(METRICS.values(), "")
        if len(own):
            row |= {"seeds": str(own.seed.nunique()), "n": f"{own.n.iloc[0]:,.0f}", "pictures": f"{own.pictures.mean():,.0f}",
                    "minutes": _number(own.minutes.mean(), "{:.0f}")}
            for metric, title in METRICS.items():
                row[title] = _number(own[own.metric == metric].value.mean(), "{:.3f}" if metric == "ter" else "{:.1%}")
        rows.append(row)
    return pd.DataFrame(rows, columns=["arm", "seeds", "n", "pictures", "minutes", *METRICS.values()])


def published() -> DataFrame:
    """Rows of `results/published.csv`: method, dataset, metric, value, std, note. Empty where the file is missing."""
    import pandas as pd

    path = results_root() / "published.csv"
    columns = ["method", "dataset", "metric", "value", "std", "note"]
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=columns)


def main_table(arms: Sequence[str] | None = None, splits: Sequence[str] = ("test_2014", "test_2019")) -> DataFrame:
    """Our arms and the published methods, ExpRate in %, as text; ours with a 95 % interval where the outcomes are kept.

    arms: by default those compared, and every other with a record of these splits that is not a part switched off ('-no-').
    Published rows are marked as such. They train on the same CROHME training set, longer, and without its segmentation.
    """
    import pandas as pd

    if arms is None:
        recorded = {arm for split in splits for arm in scored(split).arm}
        arms = [*COMPARED, *sorted(arm for arm in recorded if arm not in COMPARED and "-no-" not in arm)]
    ships, rows = shipped_arm(), []
    for arm in arms:
        row = {"method": f"{arm} (ours{', ships' if arm == ships else ''})", "source": "measured here"}
        for split in splits:
            own = scored(split)
            own = own[(own.arm == arm) & (own.metric == "exprate")]
            text = NO_RECORD if own.empty else f"{100 * own.value.mean():.1f}"
            if text != NO_RECORD and (found := intervals(split, "exprate", [arm])) is not None and len(found):
                text += f" [{100 * found.low.iloc[0]:.1f}, {100 * found.high.iloc[0]:.1f}]"
            row[split] = text
        rows.append(row)
    theirs = published()
    for method in dict.fromkeys(theirs.method):
        row = {"method": method, "source": "published"}
        for split in splits:
            own = theirs[(theirs.method == method) & (theirs.dataset == split) & (theirs.metric == "exprate")]
            row[split] = "" if own.empty else f"{100 * own.value.iloc[0]:.2f}"
            if len(own) and own["std"].notna().all():
                row[split] += f" ± {100 * own['std'].iloc[0]:.2f}"
            if len(own) and "approximate" in str(own.note.iloc[0]):
                row[split] = f"about {100 * own.value.iloc[0]:.0f}"
        rows.append(row)
    titles = {split: f"ExpRate {split.removeprefix('test_')} (%)" for split in splits}
    return pd.DataFrame(rows, columns=["method", "source", *splits]).rename(columns=titles)


def _number(value: float, form: str) -> str:
    return "" if value is None or np.isnan(value) else form.format(value)


def grid_differences(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE
                     ) -> DataFrame:
    """TER of each recorded arm of the grid minus that of its factor's reference: factor, and the columns of `differences`.

    p is there only where both arms have two seeds or more, after Holm's correction over all those (column `p`); with one seed
    the interval is about the expressions alone, and no p-value is given.
    """
    references = {arm: ablate.REFERENCE.get(factor, "mask-match") for factor, arms in ablate.GRID.items() for arm in arms}
    pairs = [(arm, reference) for arm, reference in references.items() if arm != reference]
    found = differences(pairs, split, "ter", dataset, labels, profile)
    several = found.seeds.map(min) > 1
    found["p"] = found.p.where(several)
    if several.any():
        found.loc[several, "p"] = holm(found.p[several])
    return found.assign(factor=[factor for a in found.a for factor, arms in ablate.GRID.items() if a in arms])


def grid_table(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE) -> DataFrame:
    """The grid of ablations, a row for each arm with a record: its cost, TER (mean, and std over seeds where there are several),
    and `grid_differences` as text."""
    import pandas as pd

    frame, found = scored(split, dataset, labels, profile), outcomes_of(split, dataset, labels, profile)
    minus = grid_differences(labels, split, dataset, profile).set_index("a")
    rows = []
    for factor, arms in ablate.GRID.items():
        for arm in (arm for arm in arms if arm in found):
            own, ter = frame[frame.arm == arm], interval(*_sums(found[arm], "ter"))
            row = {"factor": factor, "arm": arm, "seeds": str(ter.seeds), "n": f"{ter.n:,}",
                   "pictures": f"{own.pictures.mean():,.0f}", "minutes": _number(own.minutes.mean(), "{:.0f}"),
                   "TER": f"{ter.value:.3f}" + (f" ± {ter.std:.3f}" if ter.seeds > 1 else ""),
                   "ExpRate": _number(own[own.metric == "exprate"].value.mean(), "{:.1%}"),
                   "compared with": "", "TER minus its": "", "p (Holm)": ""}
            if arm in minus.index:
                less = minus.loc[arm]
                row |= {"compared with": less.b, "TER minus its": f"{less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}]",
                        "p (Holm)": _number(less.p, "{:.3f}")}
            rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame({"arm": [NO_RECORD]})


def occluded(labels: float = 1.0, split: str = "valid", dataset: str = "crohme", profile: str = ablate.PROFILE) -> DataFrame:
    """The arms read with part of the ink hidden, a row for each arm, way of hiding and share.

    Columns arm, way ('visible covers' or 'silent removal'), share, TER as value, low, high, n, seeds, hallucination (inserted
    tokens over reference tokens) and outcomes, of each seed. A share of 0 is the same in both ways.
    """
    import pandas as pd

    frame = records.load()
    frame = frame[(frame.dataset == dataset) & (frame.split == split) & (frame.labels == labels) & (frame.profile == profile)]
    frame = frame.sort_values("utc", kind="stable").drop_duplicates(["arm", "seed", "metric", "occlusion"], keep="last")
    rows = []
    for way, mark in (("visible covers", ""), ("silent removal", ":removed")):
        hidden = frame[(frame.metric == f"ter{mark}") & (frame.occlusion > 0)]
        kept = frame[frame.arm.isin(hidden.arm) & (frame.metric == "ter") & (frame.occlusion == 0)]
        for (arm, share), own in pd.concat([kept, hidden]).sort_values("seed").groupby(["arm", "occlusion"], sort=True):
            found = [Outcomes.read_csv(results_root() / "runs" / run / "outcomes.csv") for run in own.run]
            inserted = sum(np.nansum(one.insertions) for one in found) / sum(one.length.sum() for one in found)
            rows.append({"arm": arm, "way": way, "share": share, **vars(interval(*_sums(found, "ter"))),
                         "hallucination": inserted, "outcomes": found})
    return pd.DataFrame(rows, columns=["arm", "way", "share", *Interval.__dataclass_fields__, "hallucination", "outcomes"])


def occlusion_areas(labels: float = 1.0) -> DataFrame:
    """Mean TER from nothing hidden to the largest share (trapezoids), and its ratio to that of the arms' reference.

    Columns arm, way, area, low, high, against, difference, difference_low, difference_high, relative (difference over the
    reference's area), n, seeds. Intervals resample seeds and expressions, the same of each for all shares.
    """
    import pandas as pd

    frame, rows = occluded(labels), []
    reference = ablate.REFERENCE[ablate.COVERED]
    for way, members in frame.groupby("way", sort=False):
        sums = {}
        for arm, own in members.groupby("arm"):
            own = own.sort_values("share")
            weights = np.trapezoid(np.eye(len(own)), own.share, axis=1) / np.ptp(own.share)  # of each share in the mean
            errors = [_sums(found, "ter") for found in own.outcomes]
            sums[arm] = sum(weight * values for weight, (values, _) in zip(weights, errors, strict=True)), errors[0][1]
        for arm, (values, length) in sums.items():
            area = interval(values, length)
            row = {"arm": arm, "way": way, "area": area.value, "low": area.low, "high": area.high, "n": area.n,
                   "seeds": area.seeds}
            if reference in sums and arm != reference:
                ours = sums[reference][0]
                less = paired_difference(ours, values, length)
                row |= {"against": reference, "difference": less.value, "difference_low": less.low, "difference_high": less.high,
                        "relative": less.value / area.value}
            rows.append(row)
    return pd.DataFrame(rows, columns=["arm", "way", "area", "low", "high", "against", "difference", "difference_low",
                                       "difference_high", "relative", "n", "seeds"])


PROBED = {"untrained": "random weights", "contrastive": "stage 1", "mask-match": "stages 1 and 2"}
PROBES = {"symbol_linear": "symbol, linear", "symbol_linear_macro": "macro", "symbol_knn": "symbol, k-NN",
          "relation_linear_macro": "relation, linear, macro", "partner": "finds its other view"}
CONTROLS = {"symbol_common": "symbol_linear", "symbol_common_macro": "symbol_linear_macro",
            "geometry_linear_macro": "relation_linear_macro", "partner_cues": "partner"}  # and the probe each stands beside


def probes_table(profile: str = "desk", dataset: str = "crohme") -> DataFrame:
    """Frozen encoders, probed (`mmlib.stages.probe`): accuracies with 95 % intervals over expressions, as text.

    The last row has what needs no encoder: the commonest class, the relation from the boxes alone, the partner found by width,
    height, ink length and strokes.
    """
    import pandas as pd

    frame = records.load()
    frame = frame[(frame.stage == "probe") & (frame.profile == profile) & (frame.dataset == dataset)]
    if frame.empty:
        return pd.DataFrame({"encoder": [NO_RECORD]})
    frame = frame.sort_values("utc", kind="stable").drop_duplicates(["arm", "seed", "metric"], keep="last")
    value = frame.set_index(["arm", "seed", "metric"]).value
    order = [*PROBED, *ablate.ARMS]
    several = frame.seed.nunique() > 1

    def text(encoder: tuple[str, int], metric: str) -> str:
        bounds = [value.get((*encoder, f"probe_{metric}{bound}"), np.nan) for bound in ("", "_low", "_high")]
        return "" if np.isnan(bounds[0]) else "{:.3f} [{:.3f}, {:.3f}]".format(*bounds)

    def called(arm: str, seed: int) -> str:
        return f"{PROBED.get(arm, 'stage 1')} ({arm}{f', seed {seed}' if several else ''})"

    found = set(zip(frame.arm, frame.seed.astype(int), strict=True))
    encoders = sorted(found, key=lambda e: (order.index(e[0]) if e[0] in order else len(order), *e))
    rows = [{"encoder": called(*e)} | {title: text(e, name) for name, title in PROBES.items()} for e in encoders]
    beside = {PROBES[probe]: text(encoders[0], control) for control, probe in CONTROLS.items()}
    return pd.DataFrame([*rows, {"encoder": "no encoder"} | beside]).fillna("")


# --- outcomes: intervals, differences, parts ----------------------------------------------------------------------


def outcomes_of(split: str, dataset: str = "crohme", labels: float = 1.0, profile: str | None = None
                ) -> dict[str, list[Outcomes]]:
    """For each recorded arm the outcomes of its evaluations, by seed, where the run folders keep them."""
    found: dict[str, list[Outcomes]] = {}
    rows = scored(split, dataset, labels, profile)
    for row in rows[rows.metric == "ter"].sort_values(["arm", "seed"]).itertuples():
        path = results_root() / "runs" / row.run / "outcomes.csv"
        if path.is_file():
            found.setdefault(row.arm, []).append(Outcomes.read_csv(path))
    return found


def _sums(seeds: Sequence[Outcomes], metric: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (seeds, n) and weights of a metric: 'ter', 'exprate', 'within1' to 'within3', 'structure'."""
    if any(not np.array_equal(one.id, seeds[0].id) for one in seeds):
        raise RunError("the evaluations of an arm do not hold the same expressions")
    errors = np.stack([one.token_errors for one in seeds])
    length = np.broadcast_to(seeds[0].length, errors.shape)
    if metric == "structure":
        values, weights = np.stack([one.structure for one in seeds]).astype(float), None
    elif metric == "ter":
        values, weights = errors, length
    else:
        values, weights = (errors <= {"exprate": 0, "within1": 1, "within2": 2, "within3": 3}[metric]).astype(float), None
    if rows is not None:
        values, weights = values[:, rows], None if weights is None else weights[:, rows]
    return values, None if weights is None else weights[0]


def intervals(split: str, metric: str = "ter", arms: Sequence[str] | None = None, dataset: str = "crohme",
              labels: float = 1.0) -> DataFrame:
    """Columns arm, value, low, high, std, n, seeds: 95 % intervals of the arms whose outcomes are kept."""
    import pandas as pd

    found = outcomes_of(split, dataset, labels)
    rows = [{"arm": arm, **vars(interval(*_sums(found[arm], metric)))} for arm in arms or found if arm in found]
    return pd.DataFrame(rows, columns=["arm", *Interval.__dataclass_fields__])


def differences(pairs: Iterable[tuple[str, str]], split: str, metric: str = "ter", dataset: str = "crohme",
                labels: float = 1.0, profile: str | None = None) -> DataFrame:
    """Arm a minus arm b on the same expressions: a, b, value, low, high, p, n, seeds (of a, of b); known pairs only."""
    import pandas as pd

    found, rows = outcomes_of(split, dataset, labels, profile), []
    for a, b in pairs:
        if a in found and b in found:
            if not np.array_equal(found[a][0].id, found[b][0].id):
                raise RunError(f"{a} and {b} were not evaluated on the same expressions of {split}")
            (one, weights), (other, _) = _sums(found[a], metric), _sums(found[b], metric)
            rows.append({"a": a, "b": b, **vars(paired_difference(one, other, weights))})
    return pd.DataFrame(rows, columns=["a", "b", "value", "low", "high", "p", "n", "seeds"])


def verdict(a: str, b: str, split: str, metric: str = "ter", dataset: str = "crohme") -> str:
    """What the records say of arm a against arm b, in a sentence that claims no more than they carry."""
    found = differences([(a, b)], split, metric, dataset)
    title = METRICS[metric]
    if found.empty:
        return f"{title} of {a} against {b} on {split}: {NO_RECORD}."
    row = found.iloc[0]
    text = (f"{title} of {a} minus {b} on {split}: {row.value:+.3f}, 95 % interval {row.low:+.3f} to {row.high:+.3f}, "
            f"n = {row.n:,} expressions, seeds {row.seeds[0]} and {row.seeds[1]}.")
    if min(row.seeds) == 1:
        return text + " One seed: the interval is about the expressions, another seed may turn the sign, so no claim follows."
    if row.low > 0 or row.high < 0:
        better = (row.value < 0) == (metric in ("ter", "hallucination"))
        return text + f" The interval leaves out 0: {a} is {'better' if better else 'worse'}."
    return text + " The interval holds 0: no difference was found."


def traits_path(split: str, dataset: str = "crohme") -> Path:
    """The file of a split's traits: id, depth, seen. It holds no label."""
    return results_root() / "traits" / f"{dataset}-{split}.csv"


def write_traits(split: str, dataset: str = "crohme") -> Path:
    """Keep what figures need of a split's labels, as `id, depth, seen`: nesting, and whether its formula is trained on.

    Needs the data set itself. `seen` is about the training part of the split by writers and formulas.
    """
    from mmlib.data.corpus import load_corpus
    from mmlib.stages.evaluate import load_part

    corpus, part = load_corpus(dataset), load_part(dataset, split)
    trained = {corpus.pack.tokens(int(i)) for i in corpus.train} - {None}
    lines = ["id,depth,seen"]
    for name, tokens in zip(part.ids, part.tokens, strict=True):
        lines.append(f"{name},," if tokens is None else f"{name},{depth(tokens)},{int(tokens in trained)}")
    path = traits_path(split, dataset)
    write_atomic(path, "\n".join(lines) + "\n")
    return path


def traits(split: str, dataset: str = "crohme") -> dict[str, dict[str, float]]:
    """id to depth and seen (NaN where the label is unreadable); empty where the file was not made."""
    path = traits_path(split, dataset)
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["id"]: {key: float(row[key] or "nan") for key in ("depth", "seen")} for row in csv.DictReader(file)}


def parts(split: str, by: str, metric: str = "ter", arms: Sequence[str] | None = None, dataset: str = "crohme",
          labels: float = 1.0) -> DataFrame:
    """A metric on parts of a split, with intervals: columns arm, part, value, low, high, n.

    by: 'length' (reference tokens; bins that hold about a fifth of the expressions each), 'depth' (nesting; 3 and more
    together), 'seen' (formula in the training part or not). The last two need `write_traits`'s file.
    """
    import pandas as pd

    found, known, rows = outcomes_of(split, dataset, labels), traits(split, dataset), []
    for arm in arms or found:
        if arm not in found or (by != "length" and not known):
            continue
        one = found[arm][0]
        if by == "length":
            values = one.length.astype(float)
            values[values == 0] = np.nan  # unreadable labels
            edges = np.unique(np.nanquantile(values, np.linspace(0, 1, 6)).round())
            bins = [(f"{low:.0f} to {high - (k < len(edges) - 2):.0f}", (values >= low) & (
                (values < high) | (k == len(edges) - 2))) for k, (low, high) in enumerate(pairwise(edges))]
        else:
            values = np.array([known.get(i, {}).get(by, np.nan) for i in one.id])
            bins = ([(("3 and more" if d == 3 else str(d)), values >= 3 if d == 3 else values == d) for d in range(4)]
                    if by == "depth" else [("unseen", values == 0), ("seen", values == 1)])
        for name, member in bins:
            if member.any():
                result = interval(*_sums(found[arm], metric, np.flatnonzero(member)), n_boot=1000)
                rows.append({"arm": arm, "part": name, "value": result.value, "low": result.low, "high": result.high,
                             "n": result.n})
    return pd.DataFrame(rows, columns=["arm", "part", "value", "low", "high", "n"])


def seen_unseen(split: str, arms: Sequence[str] | None = None, dataset: str = "crohme") -> DataFrame:
    """ExpRate and TER on formulas that training held and on those it did not: see `parts`."""
    import pandas as pd

    frames = [parts(split, "seen", metric, arms, dataset).assign(metric=METRICS[metric]) for metric in ("ter", "exprate")]
    return pd.concat(frames, ignore_index=True)


def attention_ratios(dataset: str = "crohme") -> DataFrame:
    """The attention metric: columns arm, part (class of symbols), value, low, high, n.

    From records of metric 'attention_ratio:<class>', with 'attention_ratio_low:<class>' and 'attention_ratio_high:<class>' as
    the interval where they are kept. Controls are arms of their own.
    """
    import pandas as pd

    frame = records.load()
    frame = frame[(frame.dataset == dataset) & frame.metric.str.startswith("attention_ratio")]
    frame = frame.sort_values("utc", kind="stable").drop_duplicates(["arm", "seed", "split", "metric"], keep="last")
    parts = frame.metric.str.split(":", n=1, expand=True).reindex(columns=[0, 1])
    wide = frame.assign(kind=parts[0], part=parts[1]).pivot_table(index=["arm", "part"], columns="kind", values="value",
                                                                  aggfunc="mean", sort=False)
    wide = wide.reindex(columns=["attention_ratio", "attention_ratio_low", "attention_ratio_high"])
    wide.columns = ["value", "low", "high"]
    counts = frame.assign(part=parts[1]).groupby(["arm", "part"], sort=False).n.max()
    found = wide.join(counts).reset_index()
    return found if len(found) else pd.DataFrame(columns=["arm", "part", "value", "low", "high", "n"])


# --- what a recogniser looks at -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Looked:
    """A reading with what the recogniser looked at, on the cells of its picture.

    tokens (t,); cross (t, h, w): the guided head's cross-attention when each token is written, left to right; saliency
    (h, w), mean 1, or None; maps (k, h, w), each summing to 1, or None; extent: left, right, bottom, top of the cells in the
    ink's units, as `plots.heat_over_ink` takes it.
    """

    tokens: tuple[str, ...]
    cross: np.ndarray
    saliency: np.ndarray | None
    maps: np.ndarray | None
    extent: tuple[float, float, float, float]


@torch.no_grad()
def look(reader: Reader, ink: Ink, tokens: Sequence[str] | None = None, beam: int = 3) -> Looked:
    """Read an ink, or take these tokens as read, and keep where the recogniser looked."""
    from mmlib.ink import typical_size
    from mmlib.views import STRIDE, make_view

    size = typical_size(ink.points, ink.stroke)
    left, top = ink.points.min(0)
    if tokens is None:
        tokens = reader.read([(ink.points, ink.stroke, size)], beam)[0][0].tokens
    view = make_view(as_batch(ink), reader.view.still(), torch.Generator().manual_seed(0))
    vocabulary = reader.vocabulary
    inputs = torch.tensor([[[vocabulary.sos, *vocabulary.encode(list(tokens))]]])
    _, cross, encoded = reader.model(view.picture, view.valid, inputs)
    h, w = view.valid.shape[2:]
    cross = cross[0, 0, : len(tokens), : h * w].reshape(-1, h, w)
    cell, margin = STRIDE / reader.view.symbol * size, reader.view.margin / reader.view.symbol * size
    extent = (float(left - margin), float(left - margin + w * cell), float(top - margin + h * cell), float(top - margin))
    seen = encoded.attention
    return Looked(tuple(tokens), cross.float().numpy(), seen and seen.saliency[0, 0].numpy(), seen and seen.maps[0].numpy(),
                  extent)


# --- benchmarks ---------------------------------------------------------------------------------------------------


def benchmarks(section: str) -> DataFrame:
    """The rows of a benchmark's section (`mmlib.benchmark`), of all machines that have one, with `hardware` and `threads`."""
    import pandas as pd

    found = [json.loads(path.read_text()) for path in sorted((results_root() / "benchmarks").glob(f"{section}-*.json"))]
    return pd.DataFrame([{**row, "hardware": about["hardware"], "threads": about["threads"]}
                         for about in found for row in about["rows"]])


def benchmark_table(section: str, what: Sequence[str], setting: Sequence[str]) -> DataFrame:
    """Median, quartiles and unit of some rows of a section, with the columns that say how it was measured."""
    import pandas as pd

    frame = benchmarks(section)
    if frame.empty:
        return pd.DataFrame({"what": [NO_RECORD]})
    frame = frame[frame.what.isin(what)]
    digits = [f"{row.median:.3g} [{row.low:.3g}, {row.high:.3g}]" for row in frame.itertuples()]
    shown = frame[["what", *setting]].copy()
    for name in setting:
        if pd.api.types.is_float_dtype(shown[name]):
            shown[name] = [f"{v:.0f}" if np.isfinite(v) else "" for v in shown[name]]
    return shown.assign(value=digits, unit=frame.unit, n=frame.n, hardware=frame.hardware)


# --- figures that two notebooks draw ------------------------------------------------------------------------------


def learning_figure(frame: DataFrame, xs: Sequence[str] = ("total_pictures", "total_minutes")) -> Figure:
    """Validation TER (top) and ExpRate (bottom) of each arm against what it has cost, one column for each of `xs`."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    from mmlib import plots

    names = {"total_pictures": "pictures seen, all stages (thousands)", "pictures": "pictures seen in fine-tuning (thousands)",
             "total_minutes": "minutes, all stages", "minutes": "minutes of fine-tuning"}
    fig, axes = plt.subplots(2, len(xs), figsize=(3.6 * len(xs), 4.6), sharex="col", sharey="row", squeeze=False)
    for row, (key, title) in enumerate((("valid_ter", "validation TER"), ("valid_exprate", "validation ExpRate"))):
        for column, x in enumerate(xs):
            ax = axes[row, column]
            plots.curve(ax, frame.dropna(subset=[x, key]), x, key)
            ax.get_legend().remove()
            ax.set(xlabel=names[x] if row else "", ylabel=title if not column else "")
            if "pictures" in x:
                ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))
        axes[row, 0].set_ylim(bottom=0)
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes[1, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


def looks_figure(ink: Ink, looked: Looked, most: int = 15, columns: int = 5) -> Figure:
    """One panel a written token: the cross-attention over the ink when it was written."""
    import matplotlib.pyplot as plt

    from mmlib import plots

    shown = min(most, len(looked.tokens))
    rows = -(-shown // columns)
    left, top, right, bottom = ink.bounds()
    height = np.clip(2.0 * (bottom - top) / max(right - left, 1e-6), 0.45, 2.0)
    fig, axes = plt.subplots(rows, columns, figsize=(2.0 * columns, (height + 0.35) * rows), squeeze=False)
    for ax in axes.flat[shown:]:
        ax.axis("off")
    for step, ax in enumerate(axes.flat[:shown]):
        plots.heat_over_ink(ax, ink, looked.cross[step], looked.extent)
        ax.set_title(f"{step + 1}: {looked.tokens[step]}".replace("$", r"\$"), fontsize="medium", parse_math=False)
    return fig


def shipped_arm() -> str | None:
    """The arm of the recogniser that ships; None where it or its run's folder is not there."""
    reader = shipped()
    folder = reader and results_root() / "runs" / reader.run
    return arm_of(Run.load(folder)) if folder and (folder / "config.json").is_file() else None


def shipped() -> Reader | None:
    """The recogniser that ships, or None where its weights are not there yet."""
    return _shipped(results_root())


@functools.lru_cache(maxsize=1)
def _shipped(results: Path) -> Reader | None:
    from mmlib.recognize import Reader

    try:
        return Reader.load()
    except FileNotFoundError:
        return None


# --- figures of the results -----------------------------------------------------------------------------------------

MATCH_TERMS = {"slots": "slots (InfoNCE)", "points": "covered points", "agreement": "agreement of maps", "entropy": "entropy",
               "overlap": "overlap", "blank": "mass off the ink"}


def table(name: str) -> DataFrame:
    """A published table by its file's name: 'main', 'probes', 'probes_' and a profile, 'arms_' and a split, or 'grid_' and per
    cent of the labels. RunError for any other."""
    if name == "main":
        return main_table()
    if name.startswith("arms_"):
        return arms_table(name.removeprefix("arms_"))
    if name == "probes" or name.startswith("probes_"):
        return probes_table(*name.split("_")[1:])
    if name.startswith("grid_") and name[5:].isdecimal():
        return grid_table(int(name[5:]) / 100)
    raise RunError("there is no such table; it would be 'main', 'probes', 'probes_' and a profile, 'arms_' and a split, "
                   "or 'grid_' and per cent")


def publish_tables(tables: Mapping[str, DataFrame]) -> None:
    """Write each table as `<name>.md` among the figures, and into its place in the README if that is where figures go."""
    from mmlib.plots import markdown_table
    from mmlib.runs import figures_root, project_root

    readme = project_root() / "README.md"
    for name, table in tables.items():
        text = markdown_table(table)
        write_atomic(figures_root() / f"{name}.md", text + "\n")
        if figures_root() == project_root() / "figures" and readme.is_file():
            old = readme.read_text(encoding="utf-8")
            if (new := filled(old, name, text)) != old:
                write_atomic(readme, new)


def filled(text: str, name: str, table: str) -> str:
    """The text with the table between its marks `<!-- table:name -->` and `<!-- /table:name -->`; as it was without them."""
    begin, end = f"<!-- table:{name} -->\n", f"<!-- /table:{name} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    return f"{head}{begin}{table}\n{end}{tail}" if found and closed else text


def stages_figure(first: DataFrame, second: DataFrame) -> Figure:
    """Held-out curves of stages 1 and 2: the retrieval of partners, the match's losses, the maps' shape."""
    import matplotlib.pyplot as plt

    from mmlib import plots

    panels = [(first, {"global_match": "whole expression", "local_match": "ink point"}, "stage 1: partner found"),
              (second, dict(list(MATCH_TERMS.items())[:3]), "stage 2: match"),
              (second, dict(list(MATCH_TERMS.items())[3:]), "stage 2: maps")]
    fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4))
    for ax, (frame, terms, title) in zip(axes, panels, strict=True):
        for (key, label), look in zip(terms.items(), plots.looks(terms).values(), strict=True):
            for number, (_, rows) in enumerate(frame.groupby("run", sort=True)):
                ax.plot(rows.pictures / 1000, rows[f"valid_{key}"], color=look.color, marker=look.marker, markersize=4,
                        label=label if not number else None)
        ax.set(xlabel="pictures seen in the stage (thousands)", title=title, ylim=(0, None))
        if len(frame):
            ax.legend(loc="upper left", bbox_to_anchor=(0, -0.22))
    return fig


def _dots(look: Look) -> dict[str, Any]:
    """A look for points with intervals: arms of one colour differ in their filling."""
    return {"fmt": look.marker, "color": look.color, "mfc": look.color if look.linestyle == "-" else "white", "ms": 5, "lw": 1}


def parts_figure(by: Mapping[str, DataFrame], titles: Mapping[str, str], label: str) -> Figure:
    """A panel for each frame of `parts`: points with intervals, the arms side by side."""
    import matplotlib.pyplot as plt

    from mmlib import plots

    shown = {key: frame for key, frame in by.items() if len(frame)}
    fig, axes = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.1), sharey=True, squeeze=False)
    for ax, (key, frame) in zip(axes[0], shown.items(), strict=True):
        names, chosen = list(dict.fromkeys(frame.part)), plots.looks(frame.arm)
        for number, (arm, look) in enumerate(chosen.items()):
            rows = frame[frame.arm == arm]
            x = np.array([names.index(p) for p in rows.part]) + 0.14 * (number - (len(chosen) - 1) / 2)
            ax.errorbar(x, rows.value, yerr=[rows.value - rows.low, rows.high - rows.value], label=arm, **_dots(look))
        counts = frame.drop_duplicates("part").set_index("part").n
        ax.set(xticks=range(len(names)), xticklabels=[f"{p}\nn = {counts[p]:,}" for p in names], xlabel=titles[key])
    axes[0, 0].set_ylabel(label)
    axes[0, 0].set_ylim(bottom=0)  # only now: the panels share it, and setting it ends its growth
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def ratios_figure(ratios: DataFrame) -> Figure:
    """`attention_ratios`: a row for each class of symbols, a marker for each arm and control, a line at 1."""
    import matplotlib.pyplot as plt

    from mmlib import plots

    names, chosen = list(dict.fromkeys(ratios.part)), plots.looks(dict.fromkeys(ratios.arm))
    fig, ax = plt.subplots(figsize=(7, 0.55 * len(names) + 1))
    ax.axvline(1, color=plots.GREY, lw=1)
    for number, (arm, look) in enumerate(chosen.items()):
        rows = ratios[ratios.arm == arm]
        y = np.array([names.index(p) for p in rows.part]) + 0.12 * (number - (len(chosen) - 1) / 2)
        spread = [(rows.value - rows.low).fillna(0), (rows.high - rows.value).fillna(0)]
        ax.errorbar(rows.value, y, xerr=spread, label=arm, **_dots(look))
    for edge in range(1, len(names)):
        ax.axhline(edge - 0.5, color="0.9", lw=0.8, zorder=0)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5),
           xlabel="share of the saliency on ink / share of the ink")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    if len(ratios):
        plots.annotate_n(ax, int(ratios.n.max()))
    return fig


def grid_figure(labels: float = 1.0) -> Figure:
    """`grid_differences`, a row for each arm, by factor; filled where both arms have several seeds, hollow with one."""
    import matplotlib.pyplot as plt

    from mmlib import plots

    found = grid_differences(labels)
    fig, ax = plt.subplots(figsize=(7, 0.32 * len(found) + 1.1))
    ax.axvline(0, color=plots.GREY, lw=1)
    for y, row in enumerate(found.itertuples()):
        ax.errorbar(row.value, y, xerr=[[row.value - row.low], [row.high - row.value]], fmt="o", color=plots.BLUE, capsize=3,
                    mfc=plots.BLUE if min(row.seeds) > 1 else "white")
        if y and row.factor != found.factor[y - 1]:
            ax.axhline(y - 0.5, color="0.85", lw=0.8, zorder=0)
    names = [f"{row.a} minus {row.b}  ({row.seeds[0]} seed{'s' * (row.seeds[0] > 1)})" for row in found.itertuples()]
    ax.set(yticks=range(len(found)), yticklabels=names, ylim=(len(found) - 0.5, -0.5),
           xlabel="difference in TER (right: the second reads better)",
           title=f"validation, {labels:.0%} of the labels, n = {int(found.n.iloc[0]):,} expressions")
    return fig


def occlusion_figure(frame: DataFrame) -> Figure:
    """`occluded`: TER against the share of ink hidden, visible covers and silent removal apart; bands are 95 % intervals."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    from mmlib import plots

    ways, chosen = list(dict.fromkeys(frame.way)), plots.looks(dict.fromkeys(frame.arm))
    fig, axes = plt.subplots(1, len(ways), figsize=(3.9 * len(ways), 3.2), sharey=True, squeeze=False)
    for ax, way in zip(axes[0], ways, strict=True):
        for arm, look in chosen.items():
            rows = frame[(frame.arm == arm) & (frame.way == way)]
            ax.plot(rows.share, rows.value, color=look.color, marker=look.marker, ls=look.linestyle, label=arm)
            ax.fill_between(rows.share, rows.low, rows.high, color=look.color, alpha=0.15, lw=0)
        ax.set(xlabel="share of ink hidden", title=way)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set(ylabel="validation TER", ylim=(0, None))
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    plots.annotate_n(axes[0, -1], int(frame.n.iloc[0]), int(frame.seeds.min()))
    return fig


def gallery_figure(inks: Sequence[Ink], looks: Sequence[Looked]) -> Figure:
    """A row for each ink: its saliency, then its maps."""
    import matplotlib.pyplot as plt

    from mmlib import plots

    columns = 1 + max(0 if one.maps is None else len(one.maps) for one in looks)
    fig, axes = plt.subplots(len(inks), columns, figsize=(1.35 * columns, 1.05 * len(inks)), squeeze=False)
    for row, ink, one in zip(axes, inks, looks, strict=True):
        heats = [] if one.maps is None else [one.saliency, *one.maps]
        for ax in row:
            ax.axis("off")
        for ax, heat in zip(row, heats, strict=False):
            plots.heat_over_ink(ax, ink, heat, one.extent)
    for ax, title in zip(axes[0], ["saliency", *(f"map {k}" for k in range(1, columns))], strict=True):
        ax.set_title(title, loc="center")
    return fig
