"""Diffusion over token embeddings."""
