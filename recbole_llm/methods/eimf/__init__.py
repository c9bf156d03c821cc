"""EIMF (arXiv 2411.09410)."""
