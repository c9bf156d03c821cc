"""Runs: expanding a grid, making and recording each run, and further uses of trained models."""
