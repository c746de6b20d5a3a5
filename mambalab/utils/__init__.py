"""Small things that know nothing of models, tasks or runs."""
