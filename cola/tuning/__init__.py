"""What a tuning sweep found for each entry of a study, with the effort behind it."""
