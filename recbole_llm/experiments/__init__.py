"""Runs: what a grid consists of, how each run is made and recorded, and what else a trained model is asked."""
