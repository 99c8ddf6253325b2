"""A file of ink, known by its content: InkML or UNIPEN, whatever its name.

UNIPEN (Guyon et al., ICPR 1994) is text: keywords that begin with a dot, and values.
"""

import re
from pathlib import Path

import numpy as np

from mmlib.formula.ink import Ink, InkError, moved
from mmlib.formula.inkml import read_inkml
from mmlib.formula.latex import label_fields
from mmlib.formula.traces import LARGEST_COORDINATE

# An `ink` element with nothing before it but a declaration, comments and a document type.
_INK = re.compile(r"\s*(?:<[?!][^>]*>\s*)*<(?:[\w.-]+:)?ink[\s/>]")
_KEYWORD = re.compile(r"^[ \t]*\.([A-Z][A-Z0-9_]*)", re.MULTILINE)


def is_ink(content: bytes, name: str = "") -> bool:
    """Whether a file holds ink: by its content, or as its name ends on `.inkml`."""
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    start = content[:4096].decode("utf-16" if wide else "utf-8-sig", "ignore")
    return bool(name.lower().endswith(".inkml") or _INK.match(start) or is_unipen(content))


def read_ink(content: bytes, name: str) -> Ink:
    """One formula of a file for which `is_ink` holds. Raises InkError, naming the file."""
    return read_unipen(content, name) if is_unipen(content) else read_inkml(content, name)


def is_unipen(content: bytes) -> bool:
    """Whether a file is UNIPEN: it has keywords, and one of them says that the pen is down."""
    start = content[:65536].decode("latin-1")
    return bool(_KEYWORD.match(start.lstrip("\ufeff\xef\xbb\xbf \r\n\t"))) and ".PEN_DOWN" in start


def read_unipen(content: bytes, name: str) -> Ink:
    """Read one formula of UNIPEN, whose y grows upwards.

    The label is that of the one `.SEGMENT`. Raises InkError, naming the file, for several segments
    with labels (then it is a collection of characters) and for points that are no numbers.
    """
    text = content.decode("utf-8-sig", "replace")
    found = list(_KEYWORD.finditer(text))
    axes, strokes, labels = ["X", "Y"], [], []
    for keyword, after in zip(found, [*found[1:], None], strict=True):
        values = text[keyword.end() : after.start() if after else len(text)]
        if keyword[1] == "COORD":
            axes = values.split()
        elif keyword[1] == "SEGMENT":
            labels += re.findall(r'"([^"\n]*)"', values)[-1:]
        elif keyword[1] == "PEN_DOWN":
            where = f"{name}: .PEN_DOWN in line {text.count(chr(10), 0, keyword.start()) + 1}"
            if len(points := _points(values, axes, where)):
                strokes.append(points)
    if len(labels) > 1:
        raise InkError(f"{name}: {len(labels)} labelled segments, not one formula; "
                       "write each to a file of its own")
    if not strokes:
        raise InkError(f"{name}: no .PEN_DOWN with points")
    return Ink.from_strokes(strokes, id=Path(name).stem,
                            **label_fields((labels or [""])[0].strip()))


def _points(values: str, axes: list[str], where: str) -> np.ndarray:
    """The (m, 2) points after one `.PEN_DOWN`, y turned downwards, without duplicates."""
    if not {"X", "Y"} <= set(axes):
        raise InkError(f"{where}: .COORD has {' '.join(axes) or 'nothing'}; X and Y are needed")
    try:
        numbers = np.array([float(value) for value in values.split()])
        points = numbers.reshape(-1, len(axes))[:, [axes.index("X"), axes.index("Y")]]
    except ValueError:
        raise InkError(f"{where}: its values are no points of {len(axes)} numbers "
                       f"({' '.join(axes)}); correct them or .COORD") from None
    if not (np.abs(points) <= LARGEST_COORDINATE).all():  # NaN compares false
        raise InkError(f"{where}: a coordinate is NaN, infinite or absurdly large")
    return np.asarray(points[moved(points)] * (1, -1))
