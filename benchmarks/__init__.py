"""Measurements: RecBole's own path and ours side by side in one process. Never part of the tests."""
