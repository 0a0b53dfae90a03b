"""The process that runs a study: launches runs, follows them, reacts to faults."""
