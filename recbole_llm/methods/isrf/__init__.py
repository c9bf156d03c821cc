"""ISRF (arXiv 2603.13934)."""
