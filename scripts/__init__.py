"""Benchmarks, rivals, long trials, and what makes the notebooks and the site: beside the package, not in it."""
