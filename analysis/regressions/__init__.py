"""Power laws by least squares of logarithms: optima of budgets, settings, one change."""
