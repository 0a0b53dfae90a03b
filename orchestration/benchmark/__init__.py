"""What training and generation cost on the device at hand: rates for plans, and a benchmark."""
