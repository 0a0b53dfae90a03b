"""What a network costs: parameters, FLOPs, activations, and the shape for a size (torch-free)."""
