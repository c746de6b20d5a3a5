"""Faults injected into real runs, and the promises they must keep: `python -m tests.faults`."""
