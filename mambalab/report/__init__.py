"""A report to hand in: one page for a run, a sweep or any runs; a table for LaTeX."""
