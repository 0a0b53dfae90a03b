"""The process that runs a sweep on Ray Tune."""
