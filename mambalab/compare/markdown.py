"""A comparison as Markdown: every figure, what each means, and what was left out."""

from collections.abc import Sequence

from mambalab.compare.results import Comparison
from mambalab.compare.search import Search
from mambalab.compare.sections import MEANING, Grid, results, sections, trials
from mambalab.compare.text import headline, search_lines
from mambalab.utils.text import printable


def markdown(comparison: Comparison, pictures: Sequence[str] = ()) -> str:
    """Write the comparison as Markdown.

    Args:
        comparison: what is written.
        pictures: names of pictures beside the file.
    """
    parts = [
        f"# Comparison: {escape(comparison.task)}",
        escape(headline(comparison).replace("\n", " ")) + ".",
    ]
    parts += _list([*comparison.dropout, *comparison.warnings])
    if comparison.search is not None:
        parts += ["## The search", *_search(comparison, comparison.search)]
    if not comparison.is_ranked:
        parts += ["## Results", _table(results(comparison))]
    parts += [f"{'' if name.endswith('.pdf') else '!'}[{name}]({name})" for name in pictures]
    for section in sections(comparison):
        parts.append(f"## {section.heading}")
        parts += [_table(section.grid)] if section.grid else []
        parts += _list(section.lines)
    return "\n\n".join([*parts, "## Meaning", MEANING]) + "\n"


def escape(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, whoever wrote it."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "\\|`*_[]#!~$" else c for c in text)


def _list(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {escape(line)}" for line in lines)] if lines else []


def _search(comparison: Comparison, search: Search) -> list[str]:
    lines = search_lines(comparison)
    command = f"Train it:\n\n```sh\n{search.train}\n```" if search.train else None
    told = _list(lines[:-1] if command else lines)  # the last line is the command
    return [*told, *filter(None, [command]), _table(trials(comparison, search))]


def _table(grid: Grid) -> str:
    rule = ["---", *["---:"] * (len(grid.header) - 1)]
    lines = [[escape(cell) for cell in line] for line in (grid.header, *grid.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
