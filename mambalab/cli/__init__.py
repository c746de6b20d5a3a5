"""The command line: verbs, help, completion; the only room that nobody imports."""
