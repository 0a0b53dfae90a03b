"""A first study of a folder of texts, for `cola init`."""
