"""CPU backend: kernels compiled by Numba at first use."""
