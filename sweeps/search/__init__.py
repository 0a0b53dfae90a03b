"""Which point is tried next, and the log that a search resumes from."""
