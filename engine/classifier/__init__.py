"""The general tabular model: a row of named inputs in, one of a list of classes out."""
