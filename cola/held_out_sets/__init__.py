"""Further held-out texts of a study: other domains and languages, and its own with typing errors."""
