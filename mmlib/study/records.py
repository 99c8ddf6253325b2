"""`results/records.csv`: the tidy table of every number that the project claims, one row each.

Each run's folder keeps a copy of its own rows, `records.csv`; the table is their union.

Figures, tables in the README and the conclusions of the notebooks are drawn from here, so that they cannot
drift from what was measured.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mmlib.store.runs import RunError, commit, hardware, results_root, utc, write_atomic

if TYPE_CHECKING:
    import pandas

# fmt: off
COLUMNS = ("run", "stage", "profile", "arm", "dataset", "split", "labels", "occlusion", "seed", "metric",
           "value", "n", "pictures", "minutes", "hardware", "commit", "utc")
# fmt: on
KEY = ("run", "arm", "dataset", "split", "labels", "occlusion", "seed", "metric")  # one row for each
NUMBERS = ("labels", "occlusion", "seed", "value", "n", "pictures", "minutes")


def path() -> Path:
    """The table's file."""
    return results_root() / "records.csv"


def cell(column: str, value: Any) -> str:
    """One spelling for each value (1, 1.0 and '1' are the same number), so that keys compare as text."""
    if value is None or value == "":
        return ""
    if column not in NUMBERS:
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        raise RunError(f"a record's {column} must be a finite number, got {value!r}")
    return f"{number:.10g}"


def key(row: Mapping[str, str]) -> tuple[str, ...]:
    """What tells a row from every other."""
    return tuple(row[column] for column in KEY)


def _read(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise RunError(f"{file} has columns {reader.fieldnames}, expected {list(COLUMNS)}")
            found = list(reader)
    except (ValueError, csv.Error) as error:
        raise RunError(f"{file} is damaged: {error}") from error
    for number, row in enumerate(found, 2):
        if set(row) != set(COLUMNS) or None in row.values():
            raise RunError(f"{file}, row {number}: it has not {len(COLUMNS)} columns")
    return found


def append(rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to the table; a row with the key of an older one takes its place.

    Each row gives the columns; `labels` and `occlusion` are shares in [0, 1], `pictures` the pictures seen in
    training, `n` the number of things the value is a mean over. `occlusion` is 0 unless given, `minutes`
    empty, and `hardware`, `commit` and `utc` are this process's own. Safe beside other processes that append.

    Raises RunError for an unknown or a missing column and for a number that is not finite.
    """
    rows = list(rows)
    fill = {"occlusion": 0, "minutes": None, "hardware": hardware(), "commit": commit(), "utc": utc()}
    new = []
    for row in rows:
        full = fill | dict(row)
        if wrong := set(full) ^ set(COLUMNS):
            raise RunError(
                f"a record has the columns {', '.join(COLUMNS)}; missing or unknown: {sorted(wrong)}"
            )
        new.append({column: cell(column, full[column]) for column in COLUMNS})
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(".records.lock"), timeout=60):
        for name in dict.fromkeys(row["run"] for row in new):
            if (folder := file.parent / "runs" / name).is_dir():  # first, so that a table never says what no run does
                _merge(folder / "records.csv", [row for row in new if row["run"] == name])
        _merge(file, new)


def _merge(file: Path, new: list[dict[str, str]]) -> None:
    merged = {key(row): row for row in [*_read(file), *new]}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(merged.values())
    write_atomic(file, text.getvalue())


def rows(file: Path | None = None) -> list[dict[str, str]]:
    """The table, or one run's rows, as text; without pandas, for machines that only train. Empty where there is no file."""
    return _read(file or path())


def load() -> pandas.DataFrame:
    """The table as a DataFrame: numbers as floats, the rest as text; empty when nothing is recorded yet."""
    import pandas

    frame = pandas.DataFrame(rows(), columns=COLUMNS)
    for column in NUMBERS:
        frame[column] = pandas.to_numeric(frame[column])
    return frame
