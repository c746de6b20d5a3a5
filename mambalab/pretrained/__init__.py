"""Published Mamba-1 checkpoints: read in both layouts, written in both, with their tokenizers."""
