"""Ink that nobody wrote: a grammar, a layout, sources of glyphs, and their composition."""
