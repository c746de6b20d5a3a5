"""Looking into a trained model: what it computed inside while it read one sequence."""
