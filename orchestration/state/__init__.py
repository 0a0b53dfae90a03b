"""What is known about runs on disk: paths, ledger, journals, events, heartbeats."""
