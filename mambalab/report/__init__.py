"""Reports: read what runs left behind."""
