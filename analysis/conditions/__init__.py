"""Under which conditions the runs of a study were trained and scored."""
