"""Texts and images in one block-causal prior."""
