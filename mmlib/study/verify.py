"""`mmlib verify`: the committed results held against each other, from the results alone.

Nothing is trained and no data set is read. Each check says what does not agree:

- **runs**: what an evaluation read is in runs.csv, and so is what it started from; the recogniser
  that ships is one that was published.
- **records**: each row of records.csv agrees with the rows of its run in runs.csv and outcomes/.
- **tables**: figures/*.md and the tables of the README, docs/*.md and the recogniser's card have
  the bytes that are drawn.

`python -m scripts.figures --check` draws the figures again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import chain, zip_longest
from typing import Any

from mmlib.measure.recognition import Score
from mmlib.store.files import RunError, digest, figures_root, results_root
from mmlib.study import records, results, tables
from mmlib.study.comparisons import METRICS
from mmlib.study.publish import shipped_digests

SHARED = ("profile", "seed", "dataset", "split", "labels", "hardware", "commit")


def verify() -> list[str]:
    """What does not agree, a sentence each; empty where everything does."""
    return [*run_faults(), *record_faults(), *table_faults()]


def run_faults() -> Iterator[str]:
    """Runs whose start is missing, and weights that were not published."""
    shipped, weights = shipped_digests(), results_root() / "checkpoints" / "recogniser.safetensors"
    here = digest(weights) if weights.is_file() else None
    if here not in shipped.values() and (here or shipped):  # results may be without a recogniser
        yield f"checkpoints/{weights.name}: its digest {here} is that of no published weights"
    runs = results.run_rows()
    for name, row in runs.items():
        if row["start"] != "none" and row["start"] not in runs:
            yield f"runs.csv: {name} starts from {row['start']}, which has no row"
        elif row["stage"] == "evaluate":
            read, trained = row["inputs"]["weights"], runs[row["start"]]["weights"]
            if read not in (trained, shipped.get(row["start"])):
                yield f"runs.csv: {name} read the weights {read}; those of its run are {trained}"


def record_faults() -> Iterator[str]:
    """Rows of records.csv that the tables do not bear out."""
    runs = results.run_rows()

    @cache
    def score(name: str) -> Score:
        split, dataset = runs[name]["config"]["split"], runs[name]["dataset"]
        return results.outcomes(split, dataset)[name].summary()

    for number, row in enumerate(records.rows(), 2):
        place = f"records.csv, line {number} ({row['run']}, {row['arm']}, {row['metric']})"
        try:
            run = runs[row["run"]]
            expected = _expected(run, runs)
            if run["stage"] == "evaluate":
                found, mark = score(row["run"]), ":removed" * run["config"].get("removal", False)
                known = {f"{metric}{mark}": getattr(found, metric) for metric in METRICS}
                expected |= {"value": known[row["metric"]], "n": found.n}
            for key, value in expected.items():
                if row[key] != (cell := records.cell(key, value)):
                    yield f"{place}: {key} is {row[key]}, the tables say {cell}"
        except (RunError, KeyError) as error:
            yield f"{place}: not in the tables: {error!r}"


def _expected(run: dict[str, Any], runs: dict[str, Any]) -> dict[str, Any]:
    """Columns of a record that its run decides.

    A measurement of a trained run may have a name, a time and a data set of its own.
    """
    trained = run if run["stage"] in results.TRAINED else runs[run["start"]]
    found = {"profile": run["profile"], "seed": run["seed"]}
    if run is not trained:
        found = {key: run[key] for key in SHARED} | {"occlusion": run["config"].get("occlusion", 0)}
    if run["stage"] == "evaluate":  # a probe is of several arms that share its encoder
        found["arm"] = run["arm"]
    pictures, minutes = trained["total_pictures"], float(trained["total_minutes"])
    if run["stage"] == "probe" and run["config"]["random"] is not None:
        pictures, minutes = 0, 0.0
    # What ships was trained in several runs, one after another: its file adds up their cost.
    elif (shipped := results.shipped()) and shipped.run == trained["run"]:
        pictures, minutes = shipped.pictures, shipped.minutes
    return found | {"pictures": pictures, "minutes": round(minutes, 2)}


def table_faults() -> Iterator[str]:
    """Tables that differ from what the results give, in `figures/` and in the pages."""
    texts = {page: page.read_text(encoding="utf-8") for page in tables.pages()}
    marked = {page: re.findall(r"<!-- table:(\S+) -->", text) for page, text in texts.items()}
    files = {path.stem: path for path in sorted(figures_root().glob("*.md"))}
    for name in dict.fromkeys([*files, *chain(*marked.values())]):
        try:
            drawn = tables.markdown_table(tables.table(name))
        except RunError as error:
            yield f"table {name}: {error}"
            continue
        if name in files:
            yield from _compare(f"figures/{name}.md", files[name].read_text("utf-8"), drawn + "\n")
        for page, text in texts.items():
            if name in marked[page]:
                yield from _compare(str(page), text, tables.filled(text, name, drawn))


def _compare(place: str, found: str, wanted: str) -> Iterator[str]:
    """The first line in which two texts differ."""
    lines = zip_longest(found.splitlines(True), wanted.splitlines(True), fillvalue="nothing")
    for number, (a, b) in enumerate(lines, 1):
        if a != b:
            yield f"{place}, line {number}: it says {a!r}, the results give {b!r}"
            return
