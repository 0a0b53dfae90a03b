"""Block diffusion over masks."""
