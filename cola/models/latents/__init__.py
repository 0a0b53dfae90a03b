"""Models whose latents are diffused block by block."""
