"""Tables that people give: a file's text, its records, its columns, and what their units say."""
