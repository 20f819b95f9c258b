"""One run of each notebook from start to record, one module a notebook."""
