"""What is written: ink and its files, LaTeX and its layout trees, the vocabulary."""
