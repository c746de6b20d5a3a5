"""Odd settings and damaged files fed to every verb: `python -m tests.faults.fuzz`."""
