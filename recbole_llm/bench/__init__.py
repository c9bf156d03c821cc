"""Running grids, keeping results, making tables."""
