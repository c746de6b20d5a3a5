"""Benchmarks: what the operators and models cost, and what compilers make of the kernels."""
