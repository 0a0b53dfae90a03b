"""Cola DLM: a text VAE and a block-causal diffusion prior over its latents."""
