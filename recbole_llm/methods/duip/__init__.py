"""DUIP (arXiv 2501.10871)."""
