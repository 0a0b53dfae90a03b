"""Generated pairs of images and captions, whose truth is known."""
