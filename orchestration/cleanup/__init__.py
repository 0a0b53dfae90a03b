"""What finished runs leave behind, and what studies and sweeps ask to keep of it."""
