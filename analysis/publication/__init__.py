"""A study's pages as files to keep."""
