"""Hyper-parameter search with Optuna: the same budget for every model."""
