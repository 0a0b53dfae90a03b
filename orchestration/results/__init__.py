"""What comes back from a cluster: published where its driver ends, fetched to another machine."""
