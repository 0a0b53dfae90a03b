"""MLflow as a mirror of the journals."""
