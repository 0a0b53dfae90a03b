"""Curves of families that are scored on one text: laws with one floor in common."""
