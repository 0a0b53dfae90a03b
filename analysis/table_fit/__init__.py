"""What `cola fit` makes of a table: one plain object for people and programs."""
