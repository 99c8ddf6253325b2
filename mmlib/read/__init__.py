"""From a picture, a file or ink to LaTeX: one expression, or many in batches."""
