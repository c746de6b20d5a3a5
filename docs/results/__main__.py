"""`python -m docs.results`: write pages and pictures anew where the records say something else."""

import sys

from docs.results import pages, pictures
from docs.results.old import ROOT
from mambalab.errors import UserError


def main() -> int:
    """Fill every page, draw every picture that is not what its data say; returns 0, or 1."""
    redraw = "--redraw" in sys.argv[1:]
    try:
        changed = [path for path in pages.paths() if pages.fill_file(path)]
        for picture in pictures.every():
            if redraw or not pictures.is_current(picture):
                pictures.write(picture)
                changed.append(picture.path)
    except UserError as error:
        print(f"results: error: {error}", file=sys.stderr)
        return 1
    for path in changed:
        print(f"changed {path.relative_to(ROOT)}")
    print(f"{len(changed)} files changed" if changed else "every figure is what the records say")
    return 0


if __name__ == "__main__":
    sys.exit(main())
