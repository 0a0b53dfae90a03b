"""The autoregressive baseline."""
