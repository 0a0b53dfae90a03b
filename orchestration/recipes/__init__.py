"""Files that start a cluster of the right shape for a study."""
