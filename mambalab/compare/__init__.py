"""Comparison of finished runs over seeds: groups, statistics, verdicts, tables and pictures."""
