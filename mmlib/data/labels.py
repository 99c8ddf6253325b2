"""Label files: which file says what is written in which other file.

Forms: lines of `NAME<TAB>latex` (or a space, where the name is that of a file), CSV, JSON lines,
and JSON: an object of names and labels or a list of objects. A first row may name the columns.
"""

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
            yield from _objects(text, name.lower().endswith("l"))
            return
        lines = text.splitlines()
        rows = csv.reader(lines) if name.lower().endswith(".csv") else (
            _fields(line, is_file) for line in lines)
        columns = (0, 1)
        for number, row in enumerate(rows, 1):
            if number == 1 and (known := _columns(row)) and not is_file(row[0].strip()):
                columns = known
            elif any(map(str.strip, row)):
                if len(row) > max(columns):
                    yield row[columns[0]].strip(), row[columns[1]].strip()
                else:
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
    """Where a first row, or the keys of an object, say that names and labels are."""
    words = [word.strip().lower() for word in words]
    names = [words.index(word) for word in _NAMES if word in words]
    labels = [words.index(word) for word in _LABELS if word in words]
    return (names[0], labels[0]) if names and labels else None


def _objects(text: str, lines: bool) -> Iterator[tuple[str, str]]:
    """The rows of JSON; ValueError for what has no name or label."""
    found: Any = [json.loads(line) for line in text.splitlines() if line.strip()] if lines \
        else json.loads(text)
    if isinstance(found, dict):
        found = [{"name": name, "label": label} for name, label in found.items()]
    for number, item in enumerate(found if isinstance(found, list) else [found], 1):
        keys = list(item) if isinstance(item, dict) else []
        columns = _columns(list(map(str, keys)))
        if columns is None:
            raise ValueError(f"item {number} has no name or no label")
        name, label = (str(item[keys[column]] or "").strip() for column in columns)
        if name or label:
            yield name, label
