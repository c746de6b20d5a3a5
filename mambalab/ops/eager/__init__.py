"""Eager backend: plain PyTorch operations, on any device."""
