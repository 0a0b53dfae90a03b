"""MLflow as a mirror of the runs' journals."""
