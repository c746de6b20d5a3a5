"""`python -m mambalab`, the same program as the console script."""

from mambalab.cli.main import main
from mambalab.utils import process


def program() -> None:
    """Run the program and end the process with its exit status."""
    process.leave(main())


if __name__ == "__main__":
    program()
