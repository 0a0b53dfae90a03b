"""Tasks of an evaluation, and how they are answered item by item."""
