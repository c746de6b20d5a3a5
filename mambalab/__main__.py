"""`python -m mambalab`, the same program as the console script."""

from mambalab.cli import main

if __name__ == "__main__":
    main()
