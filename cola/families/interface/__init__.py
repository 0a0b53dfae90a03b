"""What a family is: its specifications, its definition (torch-free), its implementation (torch)."""
