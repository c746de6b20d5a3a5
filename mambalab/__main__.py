"""`python -m mambalab`, the same program as the console script."""

import sys

from mambalab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
