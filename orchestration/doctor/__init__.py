"""Whether this environment can run a study, and whether recovery works."""
