"""What a study's models make of further held-out texts, and of each text more than of another."""
