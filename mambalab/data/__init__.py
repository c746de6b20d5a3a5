"""Data sets on disk: finding, fetching, verifying and converting them."""
