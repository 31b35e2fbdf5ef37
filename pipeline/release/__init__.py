"""A snapshot of the corpus and its files: Parquet, tar and HTML."""
