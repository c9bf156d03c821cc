"""LLM-DMsRec (arXiv 2507.20147)."""
