"""A study on a remote Ray cluster, as a Ray job."""
