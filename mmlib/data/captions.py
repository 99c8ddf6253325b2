"""A folder or an archive of one's own: pictures and ink, with label files or without.

Label files are known by their names and forms (`mmlib.data.labels`); they may lie at any depth and
name files beside them, in `img/` or `images/`, or by a path. Where there is no label file at all,
every picture is read, without a label; ink has the label that stands in its file.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmlib.data import labels
from mmlib.data.archives import MAX_MEMBER, iter_archive
from mmlib.data.errors import DataError
from mmlib.data.labels import has_usual_name, label_rows
from mmlib.data.photo import see
from mmlib.data.pictures import decode
from mmlib.data.trace import traced
from mmlib.formula.ink import Ink
from mmlib.formula.inkfile import is_ink
from mmlib.formula.latex import label_fields

# A row of a label file: that file, the file that it names, if it is there, the name, and the label.
Row = tuple[str, str | None, str, str | None]
Find = Callable[[str, str], str | None]  # by a label file and a name in it, the file so called
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".heic",
            ".heif")
Traced = tuple[Ink, float]  # a picture's ink, in typical sizes, and that size in pixels
Files = dict[str, Path | bytes]  # by name; those of a folder are not read before they are needed
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
    files = _open_files(path)
    pictures: list[str] = []
    inks: list[str] = []
    others: Files = {}
    for name, file in files.items():
        if _is_picture(name):
            pictures.append(name)
        elif is_ink(_start(file), name):
            inks.append(name)
        else:
            others[name] = file
    texts = _label_files(others, _finder([*pictures, *inks]))
    rows = [row for own in texts.values() for row in own]
    if not texts:
        rows = [(name, name, name, None) for name in pictures]
    named = {row[1]: row[3] for row in rows if isinstance(row, tuple)}
    stems = {PurePosixPath(name).stem for name in inks}
    seen = set(stems)
    for name in inks:
        yield InkFile(name, _load(files[name]), named.get(name))
    for row in rows:
        if isinstance(row, DataError):
            yield row
            continue
        origin, called, asked, latex = row
        if not called:
            yield DataError(f"{path}: {origin} names {asked!r}, and there is no such picture")
        elif _is_picture(called):
            stem = PurePosixPath(called).stem
            key = called if stem in stems else stem  # beside ink of its name
            if key in seen:
                yield DataError(f"{path}: {called} is left out: there is a picture {key!r} before "
                                "it; give each its own name and line")
                continue
            try:
                grey = decode(_load(files[called]))
                levels = see(grey, None if photos else False).levels
                ink = traced(levels, id=key, **label_fields(latex))
            except DataError as error:
                yield DataError(f"{path}: {called}: {error}")
                continue
            # Not before the picture could be read: another of its name may be whole.
            seen.add(key)
            yield ink
    for name in pictures:
        if name not in named:
            yield DataError(f"{path}: {name} is left out: no line of {', '.join(texts)} names it")
    for name in others:
        if name not in texts:
            yield DataError(f"{path}: {name} is not used: neither ink, a picture nor labels")


def _open_files(path: Path) -> Files:
    """The files of a folder or an archive, without hidden ones."""
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file())
        files: Files = {p.relative_to(path).as_posix(): p for p in found}
    else:
        files = dict[str, Path | bytes](iter_archive(path))
    return {name: file for name, file in files.items()
            if not any(part.startswith(".") or part in HIDDEN for part in name.split("/"))}


def _label_files(files: Files, find: Find) -> dict[str, list[Row | DataError]]:
    """The rows of each label file, by its name; what is wrong with a row stands in its place."""
    found = {}
    for name, file in files.items():
        if not name.lower().endswith(labels.SUFFIXES):
            continue
        rows = list(_rows(name, file, find))
        known = sum(isinstance(row, tuple) and row[1] is not None for row in rows)
        # Its name may say so; or at least half of its rows begin with the name of a file.
        if has_usual_name(name) or known >= max(1, len(rows)) / 2:
            found[name] = rows
    return found


def _rows(origin: str, file: Path | bytes, find: Find) -> Iterator[Row | DataError]:
    try:
        content = _load(file)
    except DataError as error:
        yield DataError(f"{origin}: {error}")
        return
    for row in label_rows(origin, content, lambda asked: find(origin, asked) is not None):
        yield row if isinstance(row, DataError) else (origin, find(origin, row[0]), *row)


def _finder(names: Sequence[str]) -> Find:
    """What finds a file as a label file calls it: beside it, in `img` or `images`, or below all.

    Else the only one of that name, whatever the folders before it. Without an extension it is
    sooner a picture than ink.
    """
    paths: dict[str, str] = {}
    alike: dict[str, set[str]] = defaultdict(set)
    for name in names:
        file = PurePosixPath(name)
        for key in (file, file.with_suffix("")):
            paths.setdefault(str(key), name)
            alike[key.name].add(name)

    def find(origin: str, name: str) -> str | None:
        asked = name.replace("\\", "/").removeprefix("./")
        folder = PurePosixPath(origin).parent
        places = (folder, folder / "img", folder / "images", PurePosixPath())
        found = [paths[key] for place in places if (key := str(place / asked)) in paths]
        if found:
            return next((name for name in found if _is_picture(name)), found[0])
        alone = alike.get(PurePosixPath(asked).name, set())
        return next(iter(alone)) if len(alone) == 1 else None

    return find


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
