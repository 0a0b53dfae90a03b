"""MLflow, opened for reading."""
