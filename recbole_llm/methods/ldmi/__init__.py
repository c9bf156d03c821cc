"""LDMI (arXiv 2507.10917)."""
