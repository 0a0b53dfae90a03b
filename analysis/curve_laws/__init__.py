"""Laws along training curves: the loss at every step under a schedule of the learning rate."""
