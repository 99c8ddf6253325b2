"""Letters of Omniglot (Lake, Salakhutdinov, Tenenbaum 2015) as glyphs: real hands beyond CROHME.

Its Latin letters are small ones. Those that are written alike, K O U W Z, stand for capitals here.
"""

from collections import defaultdict
from collections.abc import Container
from pathlib import PurePosixPath

import numpy as np

from mmlib.data.archives import iter_archive
from mmlib.store.files import data_root
from mmlib.synthetic.glyphs import EXTENT, Glyph

ARCHIVE = "omniglot_strokes_small.tar.xz"  # under ink/ beside CROHME
# Numbers of characters in their alphabets.
_LETTERS = {("Latin", ord(letter) - ord("a") + 1): letter.upper() for letter in "jkouwz"} | {
    ("Greek", number): label for number, label in (
        (4, r"\delta"), (5, r"\epsilon"), (6, r"\zeta"), (7, r"\eta"), (10, r"\kappa"),
        (13, r"\nu"), (14, r"\xi"), (17, r"\rho"), (19, r"\tau"), (22, r"\chi"), (23, r"\psi"),
        (24, r"\omega"))}
HELD_OUT = range(17, 21)  # hands of the 20 that training does not see


def letters(hands: Container[int]) -> dict[str, dict[str, Glyph]]:
    """Glyphs by label and hand, of these hands; none where the archive is missing."""
    path, found = data_root() / "ink" / ARCHIVE, defaultdict[str, dict[str, Glyph]](dict)
    for name, content in iter_archive(path) if path.exists() else ():
        file = PurePosixPath(name)
        if file.suffix != ".txt":
            continue
        alphabet, number = file.parts[-3], int(file.parts[-2].removeprefix("character"))
        label, hand = _LETTERS.get((alphabet, number)), int(file.stem.split("_")[1])
        if label and hand in hands:
            found[label][f"omniglot-{alphabet}-{hand}"] = _glyph(content.decode(), label)
    return found


def _glyph(text: str, label: str) -> Glyph:
    """A drawing of lines `x,y,t`, y upwards, with BREAK after each stroke; in its label's place."""
    strokes = [np.array([line.split(",")[:2] for line in lines], float) * (1, -1)
               for stroke in text.removeprefix("START").split("BREAK")
               if (lines := stroke.split())]
    if label == "J":  # without the dot of a j
        strokes = [max(strokes, key=lambda s: float(np.ptp(s[:, 1])))]
    points = np.concatenate(strokes)
    top, bottom, _ = EXTENT[label]
    scale = (bottom - top) / max(float(np.ptp(points[:, 1])), 1.0)
    return Glyph.of([(s - points.min(0)) * scale + (0, top) for s in strokes])
