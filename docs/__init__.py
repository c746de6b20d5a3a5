"""The pages, and what makes them: hooks of the site, and `results`, which fills in figures."""
