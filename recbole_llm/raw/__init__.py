"""Converts the raw files of published datasets to atomic files."""
