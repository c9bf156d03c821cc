"""Ranks of targets, the metrics computed from them, and significance tests of comparisons."""
