"""Runs that other projects trained, read from what their trackers wrote."""
