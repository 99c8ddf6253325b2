"""The tables that are published, and their places among the figures and in the README."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlib.store.files import RunError, figures_root, project_root, results_root, write_atomic
from mmlib.study import records, results
from mmlib.study.arms import COMPARED
from mmlib.study.claims import claims_table, first_study, pilot
from mmlib.study.comparisons import METRICS, NO_RECORD, intervals, scored
from mmlib.study.results import format_number

if TYPE_CHECKING:
    from pandas import DataFrame

MAIN = ("recogniser", "recogniser, three sizes")
SPLITS = {"test_2014": "2014", "test_2016": "2016", "test_2019": "2019"}  # of ink
PROBED = {"untrained": "random weights", "contrastive": "stage 1", "mask-match": "stages 1 and 2"}
PROBES = {
    "symbol_linear": "symbol, linear",
    "symbol_linear_macro": "macro",
    "symbol_knn": "symbol, k-NN",
    "relation_linear_macro": "relation, linear, macro",
    "partner": "finds its other view",
}
CONTROLS = {  # what needs no encoder, and the probe beside which it stands
    "symbol_common": "symbol_linear",
    "symbol_common_macro": "symbol_linear_macro",
    "geometry_linear_macro": "relation_linear_macro",
    "partner_cues": "partner",
}


def arms_table(split: str, arms: Sequence[str] = COMPARED, dataset: str = "crohme",
               others: bool = True) -> DataFrame:
    """A row for each of `arms`, and for every other arm read on the split: means over seeds."""
    import pandas as pd

    frame = scored(split, dataset)
    frame = frame[frame.metric.isin(METRICS)]
    names = [*arms, *(a for a in sorted(set(frame.arm)) if a not in arms and others)]
    columns = ["arm", "seeds", "n", "pictures", "minutes", *METRICS.values()]
    rows = []
    for arm in names:
        own = frame[frame.arm == arm]
        row = dict.fromkeys(columns, "") | {"arm": arm, "seeds": NO_RECORD}
        if len(own):
            row |= {
                "seeds": str(own.seed.nunique()),
                "n": f"{own.n.iloc[0]:,.0f}",
                "pictures": f"{own.pictures.mean():,.0f}",
                "minutes": format_number(own.minutes.mean(), "{:.0f}"),
            }
            for metric, title in METRICS.items():
                form = "{:.3f}" if metric == "ter" else "{:.1%}"
                row[title] = format_number(own[own.metric == metric].value.mean(), form)
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def published_rows() -> DataFrame:
    """`results/published.csv`: what other papers report, as text. Empty without the file."""
    import pandas as pd

    path = results_root() / "published.csv"
    columns = ["method", *SPLITS.values(), "scored by", "in main table"]
    return pd.read_csv(path, dtype=str) if path.is_file() else pd.DataFrame(columns=columns)


def main_table(arms: Sequence[str] = MAIN) -> DataFrame:
    """ExpRate in % on the tests, as text: ours with 95 % intervals, and published methods."""
    import pandas as pd

    ships, rows = results.shipped_arm(), []
    for arm in arms:
        row = {"method": f"{arm} (ours{', ships' if arm == ships else ''})"}
        for split, year in SPLITS.items():
            own = scored(split)
            own = own[(own.arm == arm) & (own.metric == "exprate")]
            row[year] = NO_RECORD if own.empty else f"{100 * own.value.mean():.1f}"
            for found in intervals(split, "exprate", [arm]).itertuples():
                row[year] += f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        rows.append(row | {"scored by": "canonical tokens"})
    theirs = published_rows()
    theirs = theirs[theirs["in main table"] == "yes"]
    columns = ["method", *SPLITS.values(), "scored by"]
    titles = {year: f"ExpRate {year} (%)" for year in SPLITS.values()}
    return pd.concat([pd.DataFrame(rows), theirs])[columns].rename(columns=titles)


def probes_table(profile: str = "desk", dataset: str = "crohme") -> DataFrame:
    """Frozen encoders, probed (`mmlib.study.probe`): accuracies with intervals, as text.

    The last row has what needs no encoder: the commonest class, the relation from the boxes alone,
    the other view found by width, height, ink length and strokes.
    """
    import pandas as pd

    frame = records.load()
    frame = frame[(frame.stage == "probe") & (frame.profile == profile)]
    frame = frame[frame.dataset == dataset]
    if frame.empty:
        return pd.DataFrame({"encoder": [NO_RECORD]})
    frame = frame.sort_values("utc", kind="stable")
    frame = frame.drop_duplicates(["arm", "seed", "metric"], keep="last")
    value = frame.set_index(["arm", "seed", "metric"]).value
    several = frame.seed.nunique() > 1

    def text(encoder: tuple[str, int], metric: str) -> str:
        names = [f"probe_{metric}{bound}" for bound in ("", "_low", "_high")]
        found = [value.get((*encoder, name), np.nan) for name in names]
        return "" if np.isnan(found[0]) else "{:.3f} [{:.3f}, {:.3f}]".format(*found)

    def title(arm: str, seed: int) -> str:
        return f"{PROBED.get(arm, arm)}{f', seed {seed}' if several else ''}"

    order = {arm: place for place, arm in enumerate(PROBED)}
    encoders = sorted(
        set(zip(frame.arm, frame.seed.astype(int), strict=True)),
        key=lambda encoder: (order.get(encoder[0], len(order)), *encoder),
    )
    rows = []
    for encoder in encoders:
        own = {column: text(encoder, metric) for metric, column in PROBES.items()}
        rows.append({"encoder": title(*encoder)} | own)
    beside = {PROBES[probe]: text(encoders[0], control) for control, probe in CONTROLS.items()}
    return pd.DataFrame([*rows, {"encoder": "no encoder"} | beside]).fillna("")


def benchmarks(section: str, last: bool = False) -> DataFrame:
    """The rows of a benchmark's section (`scripts.benchmark`) with hardware, threads and commit.

    Of all machines, the one measured last first; with `last`, of that alone.
    """
    import pandas as pd

    path = results_root() / "benchmarks.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    found = [about for about in found if about["section"] == section]
    found.sort(key=lambda about: about["utc"], reverse=True)
    rows = []
    for about in found[: 1 if last else None]:
        where = {name: about[name] for name in ("hardware", "threads", "commit")}
        rows += [{**row, **where} for row in about["rows"]]
    return pd.DataFrame(rows)


def benchmark_table(section: str, what: Sequence[str], setting: Sequence[str]) -> DataFrame:
    """Median, quartiles (of several) and unit of some rows, with the columns of their setting."""
    import pandas as pd

    frame = benchmarks(section)
    if frame.empty:
        return pd.DataFrame({"what": [NO_RECORD]})
    frame = frame[frame.what.isin(what)]
    values = []
    for row in frame.itertuples():
        spread = f" [{_digits(row.low)}, {_digits(row.high)}]" if row.n > 1 else ""
        values.append(_digits(row.median) + spread)
    shown = frame[["what", *setting]].copy()
    for name in setting:
        if pd.api.types.is_float_dtype(shown[name]):
            shown[name] = [f"{v:.0f}" if np.isfinite(v) else "" for v in shown[name]]
    rest = {name: frame[name] for name in ("unit", "n", "hardware", "commit")}
    return shown.assign(value=values, **rest)


def table(name: str) -> DataFrame:
    """A published table by its file's name, as in `figures/`. RunError for any other name."""
    if name == "main":
        return main_table()
    if name == "published":
        return published_rows().drop(columns="in main table").fillna("")
    known = {"claims": claims_table, "first_study": first_study, "pilot": pilot}
    if name in known:
        return known[name]()
    if name.startswith("arms_"):
        return arms_table(name.removeprefix("arms_"))
    if name == "probes" or name.startswith("probes_"):
        return probes_table(*name.split("_")[1:])
    raise RunError("there is no such table; it would be 'main', 'published', 'claims', "
                   "'first_study', 'pilot', 'probes', 'probes_' and a profile, or 'arms_' and a "
                   "split")


def pages() -> list[Path]:
    """The pages whose tables are filled: the README and `docs/`."""
    root = project_root()
    return [path for path in (root / "README.md", *sorted((root / "docs").glob("*.md")))
            if path.is_file()]


def publish_tables(tables: Mapping[str, DataFrame]) -> None:
    """Write each table among the figures, and into its place in the pages, if figures go there."""
    texts = {name: markdown_table(frame) for name, frame in tables.items()}
    for name, text in texts.items():
        write_atomic(figures_root() / f"{name}.md", text + "\n")
    if figures_root() != project_root() / "figures":
        return
    for page in pages():
        old = new = page.read_text(encoding="utf-8")
        for name, text in texts.items():
            new = filled(new, name, text)
        if new != old:
            write_atomic(page, new)


def filled(text: str, name: str, table: str) -> str:
    """The text with the table between `<!-- table:name -->` and `<!-- /table:name -->`.

    The text as it was where it has no such marks.
    """
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

    kinds = (frame[name].dtype.kind for name in frame)
    rule = ["---:" if kind in "iuf" else "---" for kind in kinds]
    body = frame.itertuples(index=False, name=None)
    rows = [map(cell, frame.columns), rule, *(map(cell, row) for row in body)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
