"""MLflow over PostgreSQL, for real: a throw-away server, eight writers, and what arrived."""
