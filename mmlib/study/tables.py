"""The published tables, and their places among the figures and in the README."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlib.store.runs import RunError, results_root, write_atomic
from mmlib.study import grid as ablate
from mmlib.study import records, results
from mmlib.study.claims import claims_table
from mmlib.study.comparisons import COMPARED, METRICS, NO_RECORD, intervals, scored
from mmlib.study.grid_results import grid_table
from mmlib.study.results import format_number

if TYPE_CHECKING:
    from pandas import DataFrame


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
                    "minutes": format_number(own.minutes.mean(), "{:.0f}")}
            for metric, title in METRICS.items():
                row[title] = format_number(own[own.metric == metric].value.mean(), "{:.3f}" if metric == "ter" else "{:.1%}")
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
    ships, rows = results.shipped_arm(), []
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
PROBED = {"untrained": "random weights", "contrastive": "stage 1", "mask-match": "stages 1 and 2"}
PROBES = {"symbol_linear": "symbol, linear", "symbol_linear_macro": "macro", "symbol_knn": "symbol, k-NN",
          "relation_linear_macro": "relation, linear, macro", "partner": "finds its other view"}
CONTROLS = {"symbol_common": "symbol_linear", "symbol_common_macro": "symbol_linear_macro",
            "geometry_linear_macro": "relation_linear_macro", "partner_cues": "partner"}  # and the probe each stands beside


def probes_table(profile: str = "desk", dataset: str = "crohme") -> DataFrame:
    """Frozen encoders, probed (`mmlib.study.probe`): accuracies with 95 % intervals over expressions, as text.

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
        stages = PROBED["mask-match" if "attend" in ablate.ARMS.get(arm, {}) else "contrastive"]
        return f"{PROBED.get(arm, stages)} ({arm}{f', seed {seed}' if several else ''})"

    found = set(zip(frame.arm, frame.seed.astype(int), strict=True))
    encoders = sorted(found, key=lambda e: (order.index(e[0]) if e[0] in order else len(order), *e))
    rows = [{"encoder": called(*e)} | {title: text(e, name) for name, title in PROBES.items()} for e in encoders]
    beside = {PROBES[probe]: text(encoders[0], control) for control, probe in CONTROLS.items()}
    return pd.DataFrame([*rows, {"encoder": "no encoder"} | beside]).fillna("")


def benchmarks(section: str, last: bool = False) -> DataFrame:
    """The rows of a benchmark's section (`scripts.benchmark`), of all machines that have one, with `hardware`, `threads` and the
    `commit` that was measured; the machine measured last comes first, or with `last` alone."""
    import pandas as pd

    found = [json.loads(path.read_text()) for path in (results_root() / "benchmarks").glob(f"{section}-*.json")]
    found.sort(key=lambda about: about["utc"], reverse=True)
    return pd.DataFrame([{**row, **{name: about[name] for name in ("hardware", "threads", "commit")}}
                         for about in found[: 1 if last else None] for row in about["rows"]])


def benchmark_table(section: str, what: Sequence[str], setting: Sequence[str]) -> DataFrame:
    """Median, quartiles (of several) and unit of some rows of a section, with the columns that say how it was measured."""
    import pandas as pd

    frame = benchmarks(section)
    if frame.empty:
        return pd.DataFrame({"what": [NO_RECORD]})
    frame = frame[frame.what.isin(what)]
    digits = [_digits(row.median) + (f" [{_digits(row.low)}, {_digits(row.high)}]" if row.n > 1 else "")
              for row in frame.itertuples()]
    shown = frame[["what", *setting]].copy()
    for name in setting:
        if pd.api.types.is_float_dtype(shown[name]):
            shown[name] = [f"{v:.0f}" if np.isfinite(v) else "" for v in shown[name]]
    return shown.assign(value=digits, unit=frame.unit, n=frame.n, hardware=frame.hardware, commit=frame.commit)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def table(name: str) -> DataFrame:
    """A published table by its file's name: 'main', 'claims', 'probes', 'probes_' and a profile, 'arms_' and a split, or 'grid_'
    and per cent of the labels. RunError for any other."""
    if name == "main":
        return main_table()
    if name == "claims":
        return claims_table()
    if name.startswith("arms_"):
        return arms_table(name.removeprefix("arms_"))
    if name == "probes" or name.startswith("probes_"):
        return probes_table(*name.split("_")[1:])
    if name.startswith("grid_") and name[5:].isdecimal():
        return grid_table(int(name[5:]) / 100)
    raise RunError("there is no such table; it would be 'main', 'claims', 'probes', 'probes_' and a profile, 'arms_' and a "
                   "split, or 'grid_' and per cent")


def publish_tables(tables: Mapping[str, DataFrame]) -> None:
    """Write each table as `<name>.md` among the figures, and into its place in the README if that is where figures go."""
    from mmlib.store.runs import figures_root, project_root

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


def markdown_table(frame: DataFrame, digits: int = 3) -> str:
    """A Markdown table of a frame, without its index: floats with `digits` decimals, gaps empty."""

    def cell(value: Any) -> str:
        if value is None or value != value:  # NaN
            return ""
        if isinstance(value, (float, np.floating)):
            return f"{value:.{digits}f}"
        return str(value).replace("|", r"\|").replace("\n", " ")

    rule = ["---:" if kind in "iuf" else "---" for kind in (frame[name].dtype.kind for name in frame)]
    body = frame.itertuples(index=False, name=None)
    rows = [map(cell, frame.columns), rule, *(map(cell, row) for row in body)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
