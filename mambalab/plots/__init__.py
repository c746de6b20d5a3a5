"""Pictures and tables of one run, and the style of all pictures."""
