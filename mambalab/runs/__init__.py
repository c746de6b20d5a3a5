"""A run's life: build, load, resume, fine-tune, train, report."""
