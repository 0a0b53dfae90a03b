"""Networks of pairs of text and image: both modalities' latents in one block-causal sequence."""
