"""A folder or an archive of one's own: pictures and ink, with label files or without.

Label files are known by their names and forms (`mmlib.data.labels`); they may lie at any depth and
name files beside them, in `img/` or `images/`, or by a path. Where there is no label file at all,
every picture is read, without a label; ink has the label that stands in its file.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmlib.data import labels
from mmlib.data.archives import MAX_MEMBER, iter_archive
from mmlib.data.errors import DataError
from mmlib.data.labels import has_usual_name, label_rows
from mmlib.data.photo import see
from mmlib.data.pictures import decode, ink_levels
from mmlib.data.trace import traced
from mmlib.formula.ink import Ink
from mmlib.formula.inkfile import is_ink
from mmlib.formula.latex import label_fields

Files = Mapping[str, Path | bytes]  # by name; those of a folder are not read before they are needed
# A row of a label file: that file, the file that it names, if there is one, and the label. Without
# a file, the last is the name that was asked for.
Row = tuple[str, str | None, str | None]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".heic",
            ".heif")
Traced = tuple[Ink, float]  # a picture's ink, in typical sizes, and that size in pixels
HIDDEN = ("__MACOSX", "desktop.ini", "Thumbs.db")


@dataclass(frozen=True, eq=False)
class InkFile:
    """A file of ink, not yet read, with the label that a label file gives it."""

    name: str
    content: bytes
    latex: str | None = None


def read_folder(path: str | Path, photos: bool = False) -> Iterator[Traced | InkFile | DataError]:
    """Ink and pictures of a folder or archive, with DataErrors among them.

    Pictures come in the order of their labels. Errors are whatever is not used, with the reason: a
    label without a file, a picture that no label names (where there are labels), an unreadable or
    blank picture, a broken line, any other file. A label that is no valid LaTeX is no such error:
    its ink comes with `tokens` None and `label_error`. With `photos`, a photograph is cleaned,
    as `recognize` does.
    """
    path = Path(path)
    found = _Found(_open_files(path))
    rows = list(found.rows())
    named = {row[1]: row[2] for row in rows if isinstance(row, tuple)}
    stems = {PurePosixPath(name).stem for name in found.inks}
    seen = set(stems)
    for name in found.inks:
        yield InkFile(name, _load(found.files[name]), named.get(name))
    for row in rows:
        if isinstance(row, DataError):
            yield row
            continue
        origin, file, latex = row
        if not file:
            yield DataError(f"{path}: {origin} names {latex!r}, and there is no such picture")
        elif _is_picture(file):
            stem = PurePosixPath(file).stem
            key = file if stem in stems else stem  # beside ink of its name
            if key in seen:
                yield DataError(f"{path}: {file} is left out: there is a picture {key!r} before "
                                "it; give each its own name and line")
                continue
            try:
                grey = decode(_load(found.files[file]))
                levels = see(grey).levels if photos else ink_levels(grey)
                ink = traced(levels, id=key, **label_fields(latex))
            except DataError as error:
                yield DataError(f"{path}: {file}: {error}")
                continue
            # Not before the picture could be read: another of its name may be whole.
            seen.add(key)
            yield ink
    for file in found.pictures:
        if file not in named:
            yield DataError(f"{path}: {file} is left out: no line of {', '.join(found.labels)} "
                            "names it")
    for file in found.others:
        yield DataError(f"{path}: {file} is not used: neither ink, a picture nor labels")


def _open_files(path: Path) -> Files:
    """The files of a folder or an archive, without hidden ones."""
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file())
        files: Files = {p.relative_to(path).as_posix(): p for p in found}
    else:
        files = dict(iter_archive(path))
    return {name: file for name, file in files.items()
            if not any(part.startswith(".") or part in HIDDEN for part in name.split("/"))}


class _Found:
    """Files by what they are, and the labels of those that have one."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.pictures = [name for name in files if _is_picture(name)]
        rest = [name for name in files if not _is_picture(name)]
        self.inks = [name for name in rest if is_ink(_start(files[name]), name)]
        # What is to be labelled: by its path and, with whatever folder before it, by its name.
        self.paths: dict[str, str] = {}
        self.names: dict[str, set[str]] = defaultdict(set)
        for name in (*self.pictures, *self.inks):
            file = PurePosixPath(name)
            for key in (file, file.with_suffix("")):
                self.paths.setdefault(str(key), name)
                self.names[key.name].add(name)
        rest = [name for name in rest if name not in self.inks]
        texts = [name for name in rest if name.lower().endswith(labels.SUFFIXES)]
        self.labels = [name for name in texts if has_usual_name(name) or self._labels_some(name)]
        self.others = [name for name in rest if name not in self.labels]

    def _file(self, origin: str, name: str) -> str | None:
        """The file that a label file calls so: beside it, in `img` or `images`, or below all.

        Else the only one of that name, whatever the folders before it. Without an extension it is
        sooner a picture than ink.
        """
        asked = name.replace("\\", "/").removeprefix("./")
        folder = PurePosixPath(origin).parent
        places = (folder, folder / "img", folder / "images", PurePosixPath())
        found = [self.paths[key] for place in places if (key := str(place / asked)) in self.paths]
        if found:
            return next((name for name in found if _is_picture(name)), found[0])
        alone = self.names.get(PurePosixPath(asked).name, set())
        return next(iter(alone)) if len(alone) == 1 else None

    def _labels_some(self, name: str) -> bool:
        """Whether at least half of a text's rows begin with the name of a file."""
        rows = list(self._rows_of(name))
        known = sum(isinstance(row, tuple) and row[1] is not None for row in rows)
        return bool(rows) and known >= len(rows) / 2

    def _rows_of(self, name: str) -> Iterator[Row | DataError]:
        """The rows of one label file, and what is wrong with others."""
        try:
            content = _load(self.files[name])
        except DataError as error:
            yield DataError(f"{name}: {error}")
            return
        for row in label_rows(name, content, lambda asked: self._file(name, asked) is not None):
            if isinstance(row, DataError):
                yield row
            else:
                file = self._file(name, row[0])
                yield name, file, row[1] if file else row[0]

    def rows(self) -> Iterator[Row | DataError]:
        """The rows of all label files; without any, every picture without a label."""
        for name in self.labels:
            yield from self._rows_of(name)
        if not self.labels:
            yield from ((name, name, None) for name in self.pictures)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _start(file: Path | bytes) -> bytes:
    """The beginning of a file, to know it by."""
    if isinstance(file, bytes):
        return file[:65536]
    with file.open("rb") as opened:
        return opened.read(65536)


def _load(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file
    if file.stat().st_size > MAX_MEMBER:
        raise DataError(f"{file.stat().st_size} bytes are too many")
    return file.read_bytes()
