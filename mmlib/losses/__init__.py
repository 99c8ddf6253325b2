"""Losses: a pure function per term, and one over the terms of a stage."""
