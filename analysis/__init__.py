"""What the runs say: MLflow -> frame -> fits -> report."""
