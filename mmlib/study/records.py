"""`results/records.csv`: the tidy table of every number that the project claims, one row each.

Figures, tables in the README and the conclusions of the notebooks are drawn from here, so that they
cannot drift from what was measured.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mmlib.store.files import RunError, results_root, write_atomic
from mmlib.store.machine import commit, hardware, utc

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "run", "stage", "profile", "arm", "dataset", "split", "labels", "occlusion", "seed", "metric",
    "value", "n", "pictures", "minutes", "hardware", "commit", "utc",
)  # fmt: skip
KEY = ("run", "arm", "dataset", "split", "labels", "occlusion", "seed", "metric")  # one row each
NUMBERS = ("labels", "occlusion", "seed", "value", "n", "pictures", "minutes")


def path() -> Path:
    """The table's file."""
    return results_root() / "records.csv"


def cell(column: str, value: Any) -> str:
    """One spelling for each value, so that keys compare as text: 1, 1.0 and '1' are one number."""
    if value is None or value == "":
        return ""
    if column not in NUMBERS:
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        raise RunError(f"a record's {column} must be a finite number, got {value!r}")
    return f"{number:.10g}"


def read_rows(file: Path) -> list[list[str]]:
    """The rows of a CSV file, all of one length; none without the file. RunError for damage."""
    if not file.is_file():
        return []
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            found = list(csv.reader(stream))
    except (ValueError, csv.Error) as error:
        raise RunError(f"{file} is damaged: {error}") from error
    for number, row in enumerate(found, 1):
        if len(row) != len(found[0]):
            raise RunError(f"{file}, row {number}: it does not have {len(found[0])} columns")
    return found


def read_table(file: Path) -> list[dict[str, str]]:
    """`read_rows` by the names in the first."""
    head, *found = read_rows(file) or [[]]
    return [dict(zip(head, row, strict=True)) for row in found]


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file whole or not at all; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(file, text.getvalue())


def rows(file: Path | None = None) -> list[dict[str, str]]:
    """The table, or that of another file, as text; empty where there is no file.

    Without pandas, for machines that only train. Raises RunError for damage.
    """
    found = read_table(file := file or path())
    if found and tuple(found[0]) != COLUMNS:
        raise RunError(f"{file} has columns {[*found[0]]}, expected {list(COLUMNS)}")
    return found


def append(new: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to the table; a row with the key of an older one takes its place.

    Each row gives the columns; `labels` and `occlusion` are shares in [0, 1], `pictures` the
    pictures seen in training, `n` the number of things the value is a mean over. `occlusion` is 0
    unless given, `minutes` empty, and `hardware`, `commit` and `utc` are this process's own. Safe
    beside other processes that append.

    Raises RunError for an unknown or a missing column and for a number that is not finite.
    """
    fill: dict[str, Any] = {"occlusion": 0, "minutes": None}
    fill |= {"hardware": hardware(), "commit": commit(), "utc": utc()}
    found = []
    for row in new:
        full = fill | dict(row)
        if wrong := set(full) ^ set(COLUMNS):
            known = ", ".join(COLUMNS)
            raise RunError(f"a record has the columns {known}; missing or unknown: {sorted(wrong)}")
        found.append({column: cell(column, full[column]) for column in COLUMNS})
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    # Read again under the lock, since another process may have appended in the meantime.
    with FileLock(file.with_name(".records.lock"), timeout=60):
        merged = {tuple(row[name] for name in KEY): row for row in [*rows(), *found]}
        write_table(file, COLUMNS, merged.values())


def load() -> pandas.DataFrame:
    """The table as a DataFrame: numbers as floats, the rest as text; empty without any record."""
    import pandas

    frame = pandas.DataFrame(rows(), columns=COLUMNS)
    for column in NUMBERS:
        frame[column] = pandas.to_numeric(frame[column])
    return frame
