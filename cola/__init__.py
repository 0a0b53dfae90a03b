"""What an experiment is: specifications, FLOPs, records, models, objectives, sampling, data."""
