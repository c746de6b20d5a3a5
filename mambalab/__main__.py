"""`python -m mambalab`, the same program as the console script."""

import os
import sys

if __name__ == "__main__":
    # Python puts the working directory first: a file called yaml.py there would run as yaml.
    if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
        del sys.path[0]
    from mambalab.cli.main import main

    sys.exit(main())
