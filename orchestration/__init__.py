"""How a run happens: plan, training loop, DeepSpeed, Ray Train, checkpoints, tracking."""
