"""The public release of Cola DLM: its reference tensors, recomputed."""
