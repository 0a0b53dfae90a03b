"""The generation frontier of a finished study: `cola frontier`."""
