"""One's own data: a folder or a tar archive of InkML files, or of pictures with or without captions, as a pack that every stage
trains on. Pictures are traced to ink, so one way of drawing and warping serves both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmlib.data import DataError, cache_root
from mmlib.data.crohme import iter_archive, iter_folder
from mmlib.data.pack import RESOLUTION, Pack, PackError, write_pack
from mmlib.data.pictures import Picture, PicturePack
from mmlib.data.prepare import open_pack, pack_name, prepare
from mmlib.formula.ink import Ink

TRACED = ".traced.safetensors"  # how the name of a pack of traced pictures ends
HELD = 0.1  # share held out where a split by writers and formulas cannot be: without labels, or with too few


def load_own(path: str | Path) -> Pack:
    """The pack of a folder or archive, made where its content has no pack yet; what was skipped and why is printed and kept.

    Layouts of captions: see `mmlib.data.pictures`. Raises DataError, naming the path, where there is nothing to read.
    """
    path = Path(path).resolve()  # a folder `test_2014` here is not CROHME's
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or archive")
    out = cache_root() / "own" / content_digest(path)
    file = out / f"{pack_name(str(path))}.safetensors"
    try:
        pack = open_pack(file)
    except PackError:
        prepare([str(path)], out, show=lambda text: print(text.replace(str(path), path.name)))
        pack = open_pack(file)
    if not isinstance(pack, PicturePack):
        return pack
    traced = file.with_suffix(TRACED)
    try:
        return Pack.open(traced)
    except PackError:
        skipped: list[str] = []
        write_pack(trace(pack, skipped), traced, split="own")
        for reason in skipped:
            print(f"  skipped: {reason}")
        return Pack.open(traced)


def content_digest(path: Path) -> str:
    """Sixteen hex digits over the names and contents of all files."""
    total = hashlib.sha256(b"upright")  # no pack from before pictures were turned by their EXIF, and photographs cleaned
    for name, content in iter_folder(path) if path.is_dir() else iter_archive(path):
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:16]


def trace(pictures: PicturePack, skipped: list[str]) -> Iterator[tuple[Ink, float]]:
    """Each picture as ink in typical symbols, with that size in pixels; what cannot be traced is noted in `skipped`."""
    for i in range(len(pictures)):
        try:
            yield traced(pictures[i])
        except DataError as error:
            skipped.append(f"{pictures.ids[i]}: {error}")


def traced(picture: Picture) -> tuple[Ink, float]:
    """One picture as ink; DataError where it has none, or where it is no single expression."""
    from mmlib.read.reader import trace_picture

    points, stroke, size = trace_picture(picture.array)
    points = (points - points.min(0)) / size
    if points.max() * RESOLUTION > 65535:
        raise DataError(f"the picture is over {65535 // RESOLUTION} times as large as its typical symbol; crop it to one formula")
    ink = Ink(points.astype(np.float32), stroke.astype(np.int32), (), picture.latex, picture.tokens, id=picture.id,
              label_error=picture.label_error)
    return ink, size


def parts(pack: Pack, train: np.ndarray, valid: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The split, or where that leaves too little to look at or to train on a random tenth held out; DataError for fewer than ten
    expressions."""
    if 5 <= len(valid) <= len(train):
        return train, valid
    if len(pack) < 10:
        raise DataError(f"{pack.path.stem}: {len(pack)} expressions are too few to hold some out; give ten or more")
    order = np.random.default_rng([seed, 23]).permutation(len(pack))
    cut = max(1, round(HELD * len(pack)))
    return np.sort(order[cut:]), np.sort(order[:cut])
