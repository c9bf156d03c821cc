"""Training loop and fast forms of RecBole's models."""
