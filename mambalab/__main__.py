"""`python -m mambalab`, the same program as the console script."""

import os
import sys


def program() -> None:
    """Run the program and end the process with its exit status."""
    from mambalab.utils import streams

    streams.open_closed()  # before anything else is imported, which may open files
    from mambalab.cli.main import main
    from mambalab.utils import process

    process.leave(main())


if __name__ == "__main__":
    # Python puts the working directory first: a file called yaml.py there would run as yaml.
    if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
        del sys.path[0]
    program()
