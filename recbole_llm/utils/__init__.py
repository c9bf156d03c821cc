"""Helpers that know nothing of recommenders: files, environment, YAML, plug-ins, text, progress."""
