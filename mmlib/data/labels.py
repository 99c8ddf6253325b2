"""Label files: which file says what is written in which other file.

Forms: lines of `NAME<TAB>latex` (or a space, where the name is that of a file), CSV, JSON lines,
and JSON: an object of names and labels or a list of objects. A first row may name the columns.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from mmlib.data.errors import DataError

SUFFIXES = (".txt", ".tsv", ".csv", ".json", ".jsonl", ".lst")
_USUAL = re.compile(r"caption|label|formula|latex|truth|transcri|annotation|(^|[_-])gt([_-]|$)")
_NAMES = ("image", "file", "filename", "file_name", "path", "name", "id", "img", "picture",
          "image_path", "image_name", "image_filename")  # fmt: skip
_LABELS = ("latex", "label", "formula", "caption", "text", "truth", "ground_truth", "gt",
           "transcription", "equation")  # fmt: skip

Row = tuple[str, str] | DataError  # a file's name and its label


def has_usual_name(name: str) -> bool:
    """Whether a file is one of labels by its name alone: `caption.txt`, `train_labels.csv`."""
    file = PurePosixPath(name.lower())
    return file.suffix == ".tsv" or (file.suffix in SUFFIXES and bool(_USUAL.search(file.stem)))


def label_rows(name: str, content: bytes, is_file: Callable[[str], bool]) -> Iterator[Row]:
    """The rows of a label file; a DataError, naming the line, for one that cannot be read.

    is_file: whether a name is that of a file to label.
    """
    try:
        text = content.decode("utf-8-sig")
        if name.lower().endswith((".json", ".jsonl")):
            rows = _objects(text, name.lower().endswith("l"))
        elif name.lower().endswith(".csv"):
            rows = enumerate(csv.reader(text.splitlines()), 1)
        else:
            lines = enumerate(text.splitlines(), 1)
            rows = ((number, _fields(line, is_file)) for number, line in lines)
        columns = (0, 1)
        for number, row in rows:
            words = [word.strip().lower() for word in row]
            if number == 1 and (known := _columns(words)) and not is_file(row[0].strip()):
                columns = known
            elif any(words) and len(row) > max(columns):
                yield row[columns[0]].strip(), row[columns[1]].strip()
            elif any(words):
                yield DataError(f"{name}, line {number}: no tab after the name; "
                                "write the name, a tab and the label")
    except UnicodeDecodeError as error:
        yield DataError(f"{name}: captions are not UTF-8 ({error}); convert the file")
    except (ValueError, RecursionError, csv.Error) as error:
        yield DataError(f"{name}: labels cannot be read ({error}); "
                        "write lines of a name, a tab and a label")


def _fields(line: str, is_file: Callable[[str], bool]) -> list[str]:
    """A line's name and label, parted by a tab; by a space where that leaves a file's name."""
    if "\t" in line:
        return line.split("\t")
    name, space, label = line.strip().partition(" ")
    return [name, label] if space and is_file(name) else [line]


def _columns(words: list[str]) -> tuple[int, int] | None:
    """Where a first row says that names and labels are."""
    names = [words.index(word) for word in _NAMES if word in words]
    labels = [words.index(word) for word in _LABELS if word in words]
    return (names[0], labels[0]) if names and labels else None


def _objects(text: str, lines: bool) -> Iterator[tuple[int, list[str]]]:
    """The rows of JSON; ValueError for what has no name or label."""
    found: Any = [json.loads(line) for line in text.splitlines() if line.strip()] if lines \
        else json.loads(text)
    if isinstance(found, dict):
        found = [{"name": name, "label": label} for name, label in found.items()]
    for number, item in enumerate(found if isinstance(found, list) else [found], 2):
        keys = list(item) if isinstance(item, dict) else []
        columns = _columns([str(key).lower() for key in keys])
        if columns is None:
            raise ValueError(f"item {number - 1} has no name or no label")
        yield number, [str(item[keys[column]] or "") for column in columns]
