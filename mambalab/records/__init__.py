"""What a run folder holds: written by training, read by everything else, without torch."""
