"""Further held-out texts of a study: other domains and languages, its own with typing errors."""
