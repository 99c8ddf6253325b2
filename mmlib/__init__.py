"""Mask & Match: self-supervised recognition of handwritten mathematical expressions, from ink to LaTeX.

`mmlib.recognize(source)` reads a picture, an InkML file or an `Ink`; everything else is in the modules.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`mmlib.recognize` without an import of its own: it needs torch, and `import mmlib` should stay quick."""
    if name == "recognize":
        return import_module("mmlib.recognize")
    raise AttributeError(f"module 'mmlib' has no attribute {name!r}")
