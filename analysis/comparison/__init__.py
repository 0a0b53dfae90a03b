"""Curves of two studies, or of a study and a table, against each other."""
