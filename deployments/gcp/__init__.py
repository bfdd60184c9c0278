"""Google Cloud: the one place where its client libraries are imported, each when it is used."""
