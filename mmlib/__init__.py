"""Mask & Match: handwritten mathematics recognised with self-supervised attention."""

__version__ = "0.1.0"
