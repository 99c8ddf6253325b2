"""Mask & Match: self-supervised recognition of handwritten mathematics, from ink to LaTeX.

`mmlib.recognize(source)` reads a picture, an InkML file or an `Ink`; everything else is in the
rooms.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`mmlib.recognize`, imported at first use: it needs torch, and `import mmlib` stays quick."""
    if name == "recognize":
        from mmlib.read.reader import recognize

        return recognize
    raise AttributeError(f"module 'mmlib' has no attribute {name!r}")
