"""What is raised for data that cannot be used.

Free of torch, so that a mistyped name is told at once.
"""

from pathlib import Path


class DataError(RuntimeError):
    """Data that is missing or unusable: the message names it and says what to do."""


class NothingError(DataError):
    """A picture without anything to read."""


def existing_file(path: str | Path) -> Path:
    """The path of a file. Raises FileNotFoundError where it is missing, DataError for a folder."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the files in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    return path
