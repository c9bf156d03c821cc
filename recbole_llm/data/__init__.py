"""Reading, splitting and batching of interaction data."""
