"""Forecasts of a study's larger budgets: registered before a run, scored after it."""
