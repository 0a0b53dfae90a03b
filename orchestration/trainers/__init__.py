"""How the workers of a run are started and waited for, and why they failed."""
