"""What is measured: reading, its uncertainty, what features know, where attention lies."""
