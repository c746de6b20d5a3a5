"""Tasks: data, loss, metrics."""
