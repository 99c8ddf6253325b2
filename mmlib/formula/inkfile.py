"""A file of ink, known by its content: InkML or UNIPEN, whatever its name."""

import re
from dataclasses import replace
from pathlib import Path

from mmlib.formula.ink import Ink
from mmlib.formula.inkml import read_inkml
from mmlib.formula.unipen import is_unipen, read_unipen

# An `ink` element with nothing before it but a declaration, comments and a document type.
_INK = re.compile(r"\s*(?:<[?!][^>]*>\s*)*<(?:[\w.-]+:)?ink[\s/>]")


def is_ink(content: bytes, name: str = "") -> bool:
    """Whether a file holds ink: by its content, or as its name ends on `.inkml`."""
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    start = content[:4096].decode("utf-16" if wide else "utf-8-sig", "ignore")
    return bool(name.lower().endswith(".inkml") or _INK.match(start) or is_unipen(content))


def read_ink(content: bytes, name: str) -> Ink:
    """One formula of a file for which `is_ink` holds. Raises InkError, naming the file."""
    if is_unipen(content):
        return replace(read_unipen(content, name), id=Path(name).stem)
    return read_inkml(content, name)
