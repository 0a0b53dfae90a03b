"""What one Ray Train worker process does."""
