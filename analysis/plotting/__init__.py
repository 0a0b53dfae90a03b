"""What all figures and pages share."""
