"""A sweep's page: its trials to answers, figures, page."""
