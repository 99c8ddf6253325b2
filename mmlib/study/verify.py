"""`mmlib verify`: the committed results held against each other, from the results alone.

Nothing is trained and no data set is read. Each check yields sentences that name what does not agree:

- **runs**: a folder's name is the hash of its config.json; its summary is the last look of its curves or, for an evaluation,
  what outcomes.csv gives; weights, where they are here, are those that the run wrote.
- **records**: each row of records.csv names a run that is kept, agrees with its environment.json and its outcomes.csv, and
  stands in the run's own records.csv.
- **tables**: figures/*.md, the README's tables and the model card, drawn again, have the same bytes. (`figures=True` also draws
  the figures again, which takes a minute and, for pixels, the pinned versions.)
- **prose**: each claim in the README or in a notebook's markdown is held by a record, a table, a kept measurement, or what that
  notebook itself prints.

A *claim* is a decimal, a percentage, or a number with a thousands comma, in prose: outside tables, code, formulas, links and
headings. `ALLOWED` lists what looks like one and is none. It is held where a known number, or a hundred times it, rounds to it.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Container, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmlib.measure.recognition import Outcomes
from mmlib.store.runs import (
    Run,
    RunError,
    digest,
    elsewhere,
    figures_root,
    find_runs,
    project_root,
    results_root,
    training_cost,
)  # fmt: skip
from mmlib.study import records
from mmlib.study.evaluate import METRICS, labels_used
from mmlib.study.publish import published

CLAIM = re.compile(r"(?<![\w.,])(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+(?=\s?%|\s+per\s+cent))"
                   r"(?P<percent>\s?%|\s+per\s+cent)?(?!\w|\.\d)")
# What looks like a claim and is none.
ALLOWED = (
    r"arXiv:\d{4}\.\d{5}",
    r"CC BY-NC-SA \d\.\d",  # a licence
    r"Python \d\.\d+( to \d\.\d+)?",  # versions
    r"95 %\s+intervals?",  # the level, by convention
)
NOT_PROSE = (r"```.*?```", r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$]*\$", r"(?m)^\s*\|[^\n]*", r"(?m)^#[^\n]*", r"\]\([^)]*\)",
             r"<!--.*?-->", *ALLOWED)


def verify(figures: bool = False) -> list[str]:
    """What does not agree, a sentence each; empty where everything does."""
    checks = [run_faults, record_faults, table_faults, prose_faults, *([figure_faults] if figures else [])]
    return [fault for check in checks for fault in check()]


# --- runs -------------------------------------------------------------------------------------------------------


def run_faults() -> Iterator[str]:
    """Folders whose name, summary or files are not those of the run that they describe, and weights that were not published."""
    shipped, weights = published(), results_root() / "checkpoints" / "recogniser.safetensors"
    here = digest(weights) if weights.is_file() else None
    if here not in shipped.values() and (here or shipped):  # results without a recogniser of their own have none to check
        yield f"checkpoints/{weights.name}: its digest is {here}, that of no weights that were published"
    for run in find_runs():
        try:
            found = run.environment
            if run.weights.is_file() and found["weights"] != digest(run.weights):
                yield f"{run.name}/weights.safetensors: its digest is {digest(run.weights)}, the run wrote {found['weights']}"
            outcomes = run.folder / "outcomes.csv"
            if run.stage == "evaluate":
                measured = asdict(Outcomes.read_csv(outcomes).summary())
                if found["summary"].get("outcomes", digest(outcomes)) != digest(outcomes):
                    yield f"{run.name}/outcomes.csv: not the file that the run wrote"
                trained = Run.load(run.folder.parent / found["summary"]["trained"]).environment["weights"]
                if run.inputs["weights"] not in (trained, shipped.get(found["summary"]["trained"])):
                    yield f"{run.name}: it read with the weights {run.inputs['weights']}, those of the run are {trained}"
            else:
                rows = run.metrics()
                looks = [row for row in rows if any(key.startswith("valid_") for key in row)][-1:]
                measured = {key.removeprefix("valid_"): value for row in looks for key, value in row.items()
                            if key.startswith("valid_")}
                if rows:
                    measured |= {"pictures": rows[-1]["pictures"], "steps": rows[-1]["step"]}
            for key, value in measured.items():
                if not _equal(found["summary"].get(key), value):
                    yield f"{run.name}/environment.json: {key} is {found['summary'].get(key)}, its files give {value}"
        except (RunError, OSError, ValueError, KeyError, TypeError) as error:
            yield f"{run.name}: cannot be checked: {error!r}"


def _equal(a: Any, b: Any) -> bool:
    numbers = all(isinstance(x, int | float) for x in (a, b))
    return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15) if numbers else a == b


# --- records ----------------------------------------------------------------------------------------------------


def record_faults() -> Iterator[str]:
    """Rows of records.csv that their run folder does not bear out, and rows of a folder that the table lacks."""
    runs: dict[str, tuple[dict[str, Any], dict[str, Any], dict[tuple[str, ...], dict[str, str]]]] = {}
    for number, row in enumerate(records.rows(), 2):
        place = f"records.csv, line {number} ({row['run']}, {row['arm']}, {row['metric']})"
        try:
            if row["run"] not in runs:
                run = Run.load(results_root() / "runs" / row["run"])
                own = {records.key(r): r for r in records.rows(run.folder / "records.csv")}
                runs[row["run"]] = *_expected(run), own
            expected, values, own = runs[row["run"]]
            for key, value in (expected | ({"value": values[row["metric"]]} if values else {})).items():
                if row[key] != (cell := records.cell(key, value)) and (key, row[key]) != ("stage", "evaluate"):
                    yield f"{place}: {key} is {row[key]}, its run's files say {cell}"
        except (RunError, KeyError, OSError, ValueError) as error:
            yield f"{place}: {error!r}"
            continue
        copy = own.pop(records.key(row), None)
        if copy is None:
            yield f"{place}: the run's own records.csv has no such row"
            continue
        for key in records.COLUMNS:
            if row[key] != copy[key]:
                yield f"{place}: {key} is {row[key]}, the run's own records.csv says {copy[key]}"
    for run in find_runs():
        for row in runs[run.name][2].values() if run.name in runs else records.rows(run.folder / "records.csv"):
            yield f"{run.name}/records.csv: {row['arm']}, {row['metric']} is not in records.csv"


def _expected(run: Run) -> tuple[dict[str, Any], dict[str, float]]:
    """Columns of a run's rows that its files decide, and the values of an evaluation or a probe by metric. A measurement of a
    trained run has its own time and commit, and may be of another data set; it may call itself an evaluation."""
    shared: dict[str, Any] = {"stage": run.stage, "profile": run.profile}
    if run.stage not in ("evaluate", "probe"):
        return shared | {"seed": run.config["seed"]} | _cost(run), {}
    found = run.environment
    trained = Run.load(run.folder.parent / found["summary"]["trained"])
    shared |= {key: found[key] for key in ("commit", "hardware")} | {"dataset": Path(run.config["dataset"]).name}
    if run.stage == "probe":
        bounds = {"value": "", "low": "_low", "high": "_high"}
        values = {f"probe_{row['metric']}{end}": row[key] for row in found["summary"]["rows"] for key, end in bounds.items()}
        if run.config["random"] is not None:  # random weights of the run's shape
            return shared | {"seed": run.config["random"], "labels": 0, "pictures": 0, "minutes": 0}, values
        return shared | {"seed": trained.config["seed"], "labels": trained.config.get("labels", 0)} | _cost(trained), values
    score = asdict(Outcomes.read_csv(run.folder / "outcomes.csv").summary())
    values = {metric + ":removed" * run.config.get("removal", False): score[key] for metric, key in METRICS.items()}
    shared |= {"arm": found["summary"]["arm"], "n": score["n"], "seed": trained.config["seed"], "split": run.config["split"]}
    shared |= {"labels": labels_used(trained.config, run.config["dataset"]), "occlusion": run.config.get("occlusion", 0.0)}
    return shared | _cost(trained), values


def _cost(run: Run) -> dict[str, Any]:
    """Pictures and minutes of a run and those before it; of the recogniser that ships, what its file says."""
    from mmlib.study.results import shipped

    reader = shipped()
    if reader and reader.run == run.name:
        return {"pictures": reader.pictures, "minutes": round(reader.minutes, 2)}
    pictures, minutes = training_cost(run)
    return {"pictures": pictures, "minutes": round(minutes, 2)}


# --- tables and figures -----------------------------------------------------------------------------------------


def table_faults() -> Iterator[str]:
    """Tables that differ from what the records give."""
    from mmlib.study.publish import model_card
    from mmlib.study.tables import filled, markdown_table, table

    readme = project_root() / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    marked = re.findall(r"<!-- table:(\S+) -->", text)
    files = {path.stem: path for path in sorted(figures_root().glob("*.md"))}
    for name in dict.fromkeys([*files, *marked]):
        try:
            drawn = markdown_table(table(name))
        except RunError as error:
            yield f"table {name}: {error}"
            continue
        if name in files:
            yield from _compare(f"figures/{name}.md", files[name].read_text(encoding="utf-8"), drawn + "\n")
        if name in marked:
            yield from _compare("README.md", text, filled(text, name, drawn))
    card = results_root() / "checkpoints" / "README.md"
    if card.is_file():
        yield from _compare("results/checkpoints/README.md", card.read_text(encoding="utf-8"), model_card())


def _compare(place: str, is_: str, should: str) -> Iterator[str]:
    """The lines of two texts that differ."""
    if is_ != should:
        old, new = is_.splitlines(), should.splitlines()
        for number in range(max(len(old), len(new))):
            a, b = (lines[number] if number < len(lines) else "nothing" for lines in (old, new))
            if a != b:
                yield f"{place}, line {number + 1}: it says {a!r}, the results give {b!r}"
        if old == new:
            yield f"{place}: its line ends differ from what is written"


def figure_faults() -> Iterator[str]:
    """Files of figures/ that differ when notebook 06 draws them again, and what it prints."""
    from scripts.reproduce import find_notebooks, reproduce

    committed = figures_root()
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "figures"
        with elsewhere("MMLIB_FIGURES", drawn):
            reproduce(["06"], out=Path(folder))
        names = {path.name for place in (committed, drawn) for path in place.iterdir()}
        for name in sorted(names):
            a, b = (place / name for place in (committed, drawn))
            if not (a.is_file() and b.is_file()) or a.read_bytes() != b.read_bytes():
                yield f"figures/{name}: it is not what the results draw"
        (source,) = find_notebooks(["06"])
        yield from _compare(f"notebooks/{source.name} (what it prints)", _printed(source), _printed(Path(folder) / source.name))


# --- prose ------------------------------------------------------------------------------------------------------


def prose_faults() -> Iterator[str]:
    """Claims of the README and the notebooks that nothing holds."""
    held = set(known_numbers())
    readme = project_root() / "README.md"
    if readme.is_file():
        yield from _unheld("README.md", readme.read_text(encoding="utf-8"), held)
    for path in sorted((project_root() / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        sections = set(re.findall(r"(?m)^#+ (\d+\.\d+)\b", prose))
        own = held | set(_numbers(_printed(path)))
        yield from _unheld(f"notebooks/{path.name}", prose, own, sections)


def _unheld(place: str, text: str, held: set[float], sections: Container[str] = ()) -> Iterator[str]:
    for pattern in NOT_PROSE:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    for claim in CLAIM.finditer(text):
        said = claim["number"].replace(",", "")
        if said in sections and not claim["percent"]:  # "as in 2.7"
            continue
        digits = len(said.partition(".")[2])
        scales = (1, 100) if claim["percent"] else (1,)
        if not any(round(abs(x) * scale, digits) == float(said) for x in held for scale in scales):
            around = " ".join(text[max(0, claim.start() - 40) : claim.end() + 20].split())
            yield f"{place}: no record or table holds {claim.group().strip()} (… {around} …)"


def known_numbers() -> Iterator[float]:
    """Every number of the records, the tables, the published rows, the runs' summaries and the other kept measurements."""
    for row in records.rows():
        yield from (float(row[key]) for key in records.NUMBERS if row[key])
    for path in [*figures_root().glob("*.md"), results_root() / "published.csv", results_root() / "checkpoints" / "README.md"]:
        if path.is_file():
            yield from _numbers(path.read_text(encoding="utf-8"))
    for path in [path for place in ("", "benchmarks", "trials") for path in (results_root() / place).glob("*.json")]:
        yield from _leaves(json.loads(path.read_text(encoding="utf-8")))
    for run in find_runs():
        yield from _leaves([run.environment["minutes"], run.summary])


def _numbers(text: str) -> Iterator[float]:
    for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text):
        yield float(found.replace(",", ""))


def _leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def _printed(notebook: Path) -> str:
    """What the cells of a notebook printed or showed as text."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = [output.get("text") or output.get("data", {}).get("text/markdown") or "" for cell in cells
             for output in cell.get("outputs", ())]
    return "\n".join("".join(text) for text in texts)
