"""What a finished model makes of further held-out texts, and of lengths beyond training."""
