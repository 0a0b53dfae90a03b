"""One trial: the runs of a point, as a study trains them."""
