"""Ranks of targets, metrics computed from them, and what follows for a comparison."""
