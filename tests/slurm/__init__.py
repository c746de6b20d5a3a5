"""mambalab on a real SLURM: a cluster of one node on this machine, and what runs on it."""
