"""Many runs from one command: planned, started, watched, resumed and reported."""
