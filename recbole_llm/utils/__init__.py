"""Helpers that do not depend on recommenders: files, environment, YAML, plug-ins, text, progress."""
