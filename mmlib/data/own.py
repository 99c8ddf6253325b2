"""One's own data: a folder, tar or zip archive of ink, of pictures, or of both.

It becomes a pack that every stage trains on; pictures are traced to ink.
"""

import hashlib
from pathlib import Path

import numpy as np

from mmlib.data.archives import iter_files
from mmlib.data.errors import DataError
from mmlib.data.pack import VERSION, Pack, PackError
from mmlib.data.prepare import pack_name, prepare
from mmlib.store.files import cache_root

READING = 3  # raise it when what is read of a folder changes
HELD_SHARE = 0.1  # held out where a split by writers and formulas leaves too little


def load_own(path: str | Path) -> Pack:
    """The pack of a folder or archive, made where its content has no pack yet.

    What was skipped and why is printed, and kept beside the pack. Layouts and labels: see
    `mmlib.data.captions`. Raises DataError, naming the path, where there is nothing to read.
    """
    path = Path(path).resolve()  # a folder `test_2014` here is not CROHME's
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or archive")
    # A pack stands under the names and contents of all files, and the version of packs.
    total = hashlib.sha256(f"pack {VERSION}.{READING}".encode())
    for name, content in iter_files(path):
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    out = cache_root() / "own" / total.hexdigest()[:16]
    file = out / f"{pack_name(str(path))}.safetensors"
    try:
        return Pack.open(file)
    except PackError:
        prepare([str(path)], out, show=lambda text: print(text.replace(str(path), path.name)))
        return Pack.open(file)


def hold_out(pack: Pack, train: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A split (train, valid) as it is, or a random tenth held out where one of them is too small.

    Raises DataError for fewer than ten expressions.
    """
    if 5 <= len(valid) <= len(train):
        return train, valid
    if len(pack) < 10:
        raise DataError(f"{pack.path.stem}: {len(pack)} expressions are too few to hold some out; "
                        "give ten or more")
    order = np.random.default_rng([0, 23]).permutation(len(pack))
    cut = max(1, round(HELD_SHARE * len(pack)))
    return np.sort(order[cut:]), np.sort(order[:cut])
