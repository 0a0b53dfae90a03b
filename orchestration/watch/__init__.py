"""A page of a study or sweep that follows its files: `cola watch`."""
