"""Training loop, checkpoints, ranking on the device."""
