"""What a sweep asks: its specification, the points of its space, their runs."""
