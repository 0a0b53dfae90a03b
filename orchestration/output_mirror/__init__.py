"""Results in an object store: files with their digests, a study's output that is kept there."""
