"""The tables that are published, and their places among the figures and in the README."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmlib.measure.intervals import interval
from mmlib.store.files import RunError, figures_root, project_root, results_root, write_atomic
from mmlib.study import records, results
from mmlib.study.arms import COMPARED
from mmlib.study.claims import claims_table, first_study, pilot, second_endpoint, verdicts
from mmlib.study.comparisons import METRICS, NO_RECORD, metric_sums, scored, seeds_of

if TYPE_CHECKING:
    from pandas import DataFrame

RATES = ("exprate", "within1", "within2", "within3", "ter", "structure")  # of the card
STARTS = {"none": "random weights", "recogniser": "the weights that shipped before"}
MAIN = ("recogniser", "recogniser, three sizes")
SPLITS = {"test_2014": "2014", "test_2016": "2016", "test_2019": "2019"}  # of ink
PROBED = {"untrained": "random weights", "contrastive": "stage 1", "mask-match": "stages 1 and 2"}
PROBES = {  # the column's title, and what needs no encoder
    "symbol_linear": ("symbol, linear", "symbol_common"),
    "symbol_linear_macro": ("macro", "symbol_common_macro"),
    "symbol_knn": ("symbol, k-NN", ""),
    "relation_linear_macro": ("relation, linear, macro", "geometry_linear_macro"),
}


def arms_table(split: str, arms: Sequence[str] = COMPARED, others: bool = True) -> DataFrame:
    """A row for each of `arms`, and for every other arm read on the split: means over seeds."""
    frame = scored(split)
    # Probes and maps of an arm have records on the same split, of other metrics.
    frame = frame[frame.metric.isin(METRICS) & (frame.occlusion == 0)]
    about = frame.groupby("arm").agg(seeds=("seed", "nunique"), n=("n", "first"),
                                     pictures=("pictures", "mean"), minutes=("minutes", "mean"))
    table = about.join(frame.pivot_table("value", "arm", "metric"))  # the mean over seeds
    names = [*arms, *(arm for arm in table.index if arm not in arms and others)]
    table = table.reindex(names, columns=[*about, *METRICS])
    forms = dict.fromkeys(METRICS, "{:.1%}") | {"ter": "{:.3f}", "minutes": "{:.0f}"}
    for name in table:
        form = forms.get(name, "{:,.0f}")
        table[name] = ["" if np.isnan(x) else form.format(x) for x in table[name]]
    table["seeds"] = table.seeds.replace("", NO_RECORD)
    return table.rename(columns=METRICS).rename_axis("arm").reset_index()


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
    found = {year: seeds_of(split) for split, year in SPLITS.items()}
    for arm in arms:
        row = {"method": f"{arm} (ours{', ships' if arm == ships else ''})"}
        for year, own in found.items():
            row[year] = NO_RECORD
            if arm in own:
                rate = interval(*metric_sums(own[arm].values(), "exprate"))
                value, low, high = (100 * x for x in (rate.value, rate.low, rate.high))
                row[year] = f"{value:.1f} [{low:.1f}, {high:.1f}]"
        rows.append(row | {"scored by": "canonical tokens"})
    theirs = published_rows()
    theirs = theirs[theirs["in main table"] == "yes"]
    columns = ["method", *SPLITS.values(), "scored by"]
    titles = {year: f"ExpRate {year} (%)" for year in SPLITS.values()}
    return pd.concat([pd.DataFrame(rows), theirs])[columns].rename(columns=titles)


def probes_table(profile: str = "desk") -> DataFrame:
    """Frozen encoders, probed (`mmlib.study.probe`): accuracies with intervals, as text.

    The last row has what needs no encoder: the commonest class, the relation from the boxes alone.
    """
    import pandas as pd

    frame = records.load().query("stage == 'probe' and profile == @profile and dataset == 'crohme'")
    if frame.empty:
        return pd.DataFrame({"encoder": [NO_RECORD]})
    frame = frame.sort_values("utc", kind="stable")
    frame = frame.drop_duplicates(["arm", "seed", "metric"], keep="last")
    value = frame.pivot(index=["arm", "seed"], columns="metric", values="value")
    place = {arm: k for k, arm in enumerate(PROBED)}
    value = value.loc[sorted(value.index, key=lambda one: (place.get(one[0], len(place)), *one))]

    def texts(metric: str) -> list[str]:
        names = [f"probe_{metric}{bound}" for bound in ("", "_low", "_high")]
        rows = value.reindex(columns=names).to_numpy()
        return ["" if np.isnan(row[0]) else "{:.3f} [{:.3f}, {:.3f}]".format(*row) for row in rows]

    several = frame.seed.nunique() > 1
    encoders = [f"{PROBED.get(arm, arm)}{f', seed {seed:.0f}' if several else ''}"
                for arm, seed in value.index]
    table = {"encoder": [*encoders, "no encoder"]}
    for metric, (title, control) in PROBES.items():
        table[title] = [*texts(metric), texts(control)[0]]
    return pd.DataFrame(table)


def recogniser_table() -> DataFrame:
    """What the recogniser that ships is and what it cost, from its own file: one row, as text."""
    import pandas as pd

    reader = results.shipped()
    if reader is None:
        return pd.DataFrame({"run": [NO_RECORD]})
    million = sum(p.numel() for p in reader.model.parameters()) / 1e6
    return pd.DataFrame([{
        "run": reader.run, "million weights": f"{million:.1f}",
        "began with": STARTS.get(start := reader.config.get("init", "none"), start),
        "pictures seen": f"{reader.pictures:,}", "minutes of training": f"{reader.minutes:.0f}",
        "pixels per typical symbol": f"{reader.view.symbol:.0f}",
    }])  # fmt: skip


def rates_table() -> DataFrame:
    """Rates of the recogniser that ships, a row for each split of CROHME and choice of sizes."""
    reader, frame = results.shipped(), records.load()
    sizes = {
        name: ", ".join(f"{size:g}" for size in row["config"].get("sizes", (1.0,)))
        for name, row in results.run_rows().items()
        if reader and row["stage"] == "evaluate" and row["start"] == reader.run
        and not row["config"]["without"]
    }
    frame = frame[frame.run.isin(sizes) & (frame.dataset == "crohme") & (frame.occlusion == 0)]
    frame = frame.assign(sizes=frame.run.map(sizes)).astype({"n": int})
    index = ["sizes", "split", "n"]
    wide = frame.pivot_table(index=index, columns="metric", values="value", aggfunc="last")
    wide = wide.reset_index().sort_values(["sizes", "split"], ascending=[False, True])
    shown = wide[["split", "sizes", "n", *RATES]]
    return shown.rename(columns={"split": "CROHME", "sizes": "read at sizes"})


def benchmarks(section: str) -> DataFrame:
    """The rows of a benchmark's section (`scripts.benchmark`), of the machine measured last.

    With its hardware, threads and commit; empty where nothing was measured.
    """
    import pandas as pd

    path = results_root() / "benchmarks.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    found = [about for about in found if about["section"] == section]
    found.sort(key=lambda about: about["utc"])
    return pd.json_normalize(found[-1:], "rows", ["hardware", "threads", "commit"])


def table(name: str) -> DataFrame:
    """A published table by its file's name, as in `figures/`. RunError for any other name."""
    known: dict[str, Callable[[], DataFrame]] = {
        "main": main_table, "claims": claims_table, "first_study": first_study, "pilot": pilot,
        "verdicts": verdicts, "second_endpoint": second_endpoint,
        "published": lambda: published_rows().drop(columns="in main table").fillna(""),
        "probes": probes_table, "recogniser": recogniser_table, "recogniser_rates": rates_table,
    }  # fmt: skip
    kind, _, of = name.partition("_")
    if name in known:
        found = known[name]()
    elif of and kind in ("arms", "probes"):
        found = arms_table(of) if kind == "arms" else probes_table(of)
    else:
        raise RunError(f"there is no table {name!r}; there are {', '.join(known)}, 'probes_' and a "
                       "profile, or 'arms_' and a split")
    return found


def pages() -> list[Path]:
    """The pages whose tables are filled: the README, `docs/`, and the card of the recogniser."""
    root, card = project_root(), results_root() / "checkpoints" / "README.md"
    return [path for path in (root / "README.md", *sorted((root / "docs").glob("*.md")), card)
            if path.is_file()]


def publish_tables(tables: Mapping[str, DataFrame]) -> None:
    """Write each table among the figures, and into its place in the pages, if figures go there."""
    for name, frame in tables.items():
        write_atomic(figures_root() / f"{name}.md", markdown_table(frame) + "\n")
    if figures_root() == project_root() / "figures":
        fill(tables)


def fill(tables: Mapping[str, DataFrame]) -> None:
    """Write each table into its places in the pages."""
    for page in pages():
        old = new = page.read_text(encoding="utf-8")
        for name, frame in tables.items():
            new = filled(new, name, markdown_table(frame))
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
        if isinstance(value, (float, np.floating)):
            return f"{value:.{digits}f}"
        return str(value).replace("|", r"\|").replace("\n", " ")

    kinds = (frame[name].dtype.kind for name in frame)
    rule = ["---:" if kind in "iuf" else "---" for kind in kinds]
    body = frame.astype(object).where(frame.notna(), "").itertuples(index=False, name=None)
    rows = [map(cell, frame.columns), rule, *(map(cell, row) for row in body)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
