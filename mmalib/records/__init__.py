"""One JSON a run, written atomically; the machine that it was made on; locks."""
