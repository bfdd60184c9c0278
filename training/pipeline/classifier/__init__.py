"""The training of a classifier: from a CSV or Parquet file to a bundle and a report."""
