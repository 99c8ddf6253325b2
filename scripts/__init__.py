"""Commands beside the package: benchmarks, rivals, long trials, notebooks, figures, the site."""
