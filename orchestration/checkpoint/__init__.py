"""What a training checkpoint is, where it is stored, which are kept (torch-free)."""
