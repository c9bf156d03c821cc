"""The preprocessing hook: items and histories in, LLM answers and text vectors out, as atomic files."""
