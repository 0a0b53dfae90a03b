"""How a sweep shows: a table in the terminal of its driver, and a page that follows its files."""
