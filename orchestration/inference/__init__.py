"""What is done with finished models: evaluate, generate, export."""
