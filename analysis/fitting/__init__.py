"""Scaling laws and their uncertainty, from tables of runs."""
