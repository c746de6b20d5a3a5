"""Training: drives any model on any task."""
