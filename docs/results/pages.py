"""Marked blocks of the pages, and what belongs into them."""

import re
from collections.abc import Callable
from pathlib import Path

from docs.results import (
    claims,
    front,
    images,
    lengths,
    reliability,
    searches,
    sections,
    shakespeare,
    speed,
    written,
)
from docs.results.old import ROOT
from mambalab.errors import UserError

BLOCK = re.compile(r"^<!-- results: ([\w-]+) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)
OPENING = re.compile(r"^<!-- results:", re.MULTILINE)

# What fills a block, by the block's name. An argument: the way from the page to the root.
GENERATORS: dict[str, Callable[[str], str]] = {
    **claims.BLOCKS,
    **front.BLOCKS,
    **images.BLOCKS,
    **lengths.BLOCKS,
    **reliability.BLOCKS,
    **searches.BLOCKS,
    **shakespeare.BLOCKS,
    **speed.BLOCKS,
    **sections.BLOCKS,
    **written.BLOCKS,
}


def paths() -> list[Path]:
    """Every page that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(text: str, page: Path) -> str:
    """Return a page with its blocks as the records say.

    Raises:
        UserError: a block has no end, or nothing makes it.
    """
    up = "" if page.parent == ROOT else "../"
    if len(OPENING.findall(text)) != len(BLOCK.findall(text)):
        raise UserError(f"{page.name}: a block of results lacks its name or its <!-- end -->")

    def made(found: re.Match[str]) -> str:
        name = found[1]
        if name not in GENERATORS:
            raise UserError(f"{page.name}: nothing makes the block {name!r}")
        return f"<!-- results: {name} -->\n\n{GENERATORS[name](up).strip()}\n\n<!-- end -->"

    return BLOCK.sub(made, text)


def fill_file(path: Path) -> bool:
    """Fill a page in place; returns whether that changed it."""
    text = path.read_text(encoding="utf-8")
    filled = fill(text, path)
    if filled != text:
        path.write_text(filled, encoding="utf-8")
    return filled != text
