"""The verbs, one file each; the only place where all packages meet."""
