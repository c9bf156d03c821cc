"""One folder a paper. Classes are loaded through the registry."""
