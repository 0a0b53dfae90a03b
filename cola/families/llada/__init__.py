"""The masked-diffusion baseline."""
