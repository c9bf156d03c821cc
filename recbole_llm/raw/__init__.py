"""Raw files of the published datasets to atomic files."""
