"""Losses: a pure function per term, and a thin module over the terms of a stage."""
