"""One file a feature: its files, its prompts, its offline rule."""
