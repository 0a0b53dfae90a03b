"""A study's report: MLflow to frames, fits, figures, page."""
