"""A report as one HTML page: the template beside this file, filled; it asks for nothing else.

Every text of a user or of a run goes through `_text`, which escapes it; nothing else makes HTML.
"""

import base64
import html
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mambalab.report.document import (
    Block,
    Confusion,
    Facts,
    Folded,
    Notes,
    Paragraph,
    Picture,
    Report,
    Section,
    Table,
    Verbatim,
)
from mambalab.utils.text import harmless
from mambalab.utils.version import package_version

MANY_COLUMNS = 8  # from which a table is printed smaller
MAX_WHOLE_ROWS = 30  # up to which a table is not cut where a page ends
LONG_LINES = 40  # from which a text is printed in two columns
DARK_SHARE = 0.55  # of a cell's colour, from which its text is light
_FOLDER = Path(__file__).parent


def render(report: Report) -> str:
    """Write a report as HTML; sections without any block are left out."""
    template = (_FOLDER / "page.html").read_text(encoding="utf-8")
    shown = [section for section in report.sections if section.blocks]
    parts = {
        "VERSION": _text(package_version()),
        "TITLE": _text(report.title),
        "STYLE": (_FOLDER / "page.css").read_text(encoding="utf-8"),
        "ABOUT": _about(report),
        "CONTENTS": "\n".join(
            f'<li><a href="#{_text(s.name)}">{_text(s.heading)}</a></li>' for s in shown
        ),
        "SECTIONS": "\n".join(map(_section, shown)),
        "DATE": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    before, *pieces = template.split("{{")
    for piece in pieces:  # one pass: what was put in is not looked at again
        name, after = piece.split("}}", 1)
        before += parts[name] + after
    return before


def _text(text: str) -> str:
    """Escape a text for HTML, in quotes, too; surrogates and control characters become `?`."""
    plain = harmless(text).encode("utf-8", "replace").decode("utf-8")
    return html.escape(plain, quote=True)


def _about(report: Report) -> str:
    parts = [f'<p class="about">{_text(report.about)}</p>'] if report.about else []
    if report.tags:
        words = "".join(f"<li>{_text(tag)}</li>" for tag in report.tags)
        parts.append(f'<ul class="tags" aria-label="Tags">{words}</ul>')
    if report.note:
        parts.append(f'<p class="note">{_text(report.note)}</p>')
    return "\n".join(parts)


def _section(section: Section) -> str:
    name = _text(section.name)
    heading = f'<h2 id="{name}-title">{_text(section.heading)}</h2>'
    blocks = "\n".join(map(_block, section.blocks))
    return f'<section id="{name}" aria-labelledby="{name}-title">\n{heading}\n{blocks}\n</section>'


def _block(block: Block) -> str:
    return _WRITERS[type(block)](block)


def _paragraph(block: Paragraph) -> str:
    text = _text(block.text)
    if block.marked:
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
        text = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)
    return f"<p>{text}</p>"


def _notes(block: Notes) -> str:
    items = "\n".join(f"<li>{_text(line)}</li>" for line in block.lines)
    return f'<div class="bear">\n<h3>{_text(block.heading)}</h3>\n<ul>\n{items}\n</ul>\n</div>'


def _facts(block: Facts) -> str:
    rows = "\n".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in block.rows)
    return f'<dl class="facts">\n{rows}\n</dl>'


def _table(block: Table) -> str:
    classes = ["word" if name in block.words else "" for name in block.header]
    head = _row(block.header, classes, "col")
    body = "\n".join(_row(row, classes) for row in block.rows)
    kind = ' class="many"' if len(block.header) >= MANY_COLUMNS else ""
    # Screen readers name the table by it; to others the heading above says the same.
    unseen = ' class="unseen"' if block.titled else ""
    return _wide(
        f"<table{kind}>\n<caption{unseen}>{_text(block.caption)}</caption>\n"
        f"<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>",
        block.caption,
        rows=len(block.rows),
    )


def _row(cells: Sequence[str], classes: Sequence[str], scope: str = "row") -> str:
    """A row of a table: all headers with `col`, else the first cell alone."""
    made = []
    for i, (cell, kind) in enumerate(zip(cells, classes, strict=True)):
        chosen = f' class="{kind}"' if kind else ""
        if scope == "col" or i == 0:
            name = _text(cell).replace(",", ",<wbr>")  # names of jobs have no blank to break at
            made.append(f'<th scope="{scope}"{chosen}>{name}</th>')
        else:
            made.append(f"<td{chosen}>{_text(cell)}</td>")
    return f"<tr>{''.join(made)}</tr>"


def _wide(table: str, label: str, *, rows: int) -> str:
    """Let a table scroll sideways where there is no room, by the keyboard, too."""
    kind = "wide whole" if rows <= MAX_WHOLE_ROWS else "wide"
    named = f'role="region" tabindex="0" aria-label="{_text(label)}"'
    return f'<div class="{kind}" {named}>{table}</div>'


def _confusion(block: Confusion) -> str:
    header = ["true class", *block.classes, "right"]
    head = _row(header, [""] * len(header), "col")
    lines = []
    for i, (name, row) in enumerate(zip(block.classes, block.counts, strict=True)):
        whole = sum(row)
        cells = [_cell(n, n / whole if whole else 0.0) for n in row]
        right = f"{100 * row[i] / whole:.1f} %" if whole else "-"
        cells.append(f'<td class="right">{right}</td>')
        lines.append(f'<tr><th scope="row">{_text(name)}</th>{"".join(cells)}</tr>')
    body = "\n".join(lines)
    kind = "confusion many" if len(header) >= 2 * MANY_COLUMNS else "confusion"
    return _wide(
        f'<table class="{kind}">\n<caption>{_text(block.caption)} The darker a cell, the larger '
        f"its share of the true class.</caption>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n"
        "</tbody>\n</table>",
        block.caption,
        rows=len(lines),
    )


def _cell(n: int, share: float) -> str:
    if not n:
        return "<td></td>"
    kind = ' class="dark"' if share > DARK_SHARE else ""
    return f'<td{kind} style="background: rgba(var(--heat), {share:.2f})">{n:,}</td>'


def _picture(block: Picture) -> str:
    data = base64.b64encode(block.data).decode("ascii")
    return (
        f'<figure class="picture">\n<img src="data:image/{_text(block.kind)};base64,{data}" '
        f'alt="{_text(block.alt)}">\n<figcaption>{_text(block.caption)}</figcaption>\n</figure>'
    )


def _verbatim(block: Verbatim) -> str:
    caption = f"<figcaption>{_text(block.caption)}</figcaption>\n" if block.caption else ""
    long = ' class="long"' if block.text.count("\n") >= LONG_LINES else ""
    # The new line behind <pre> is none of the text: a first one of the text itself stays so.
    return f"<figure>\n{caption}<pre{long}>\n{_text(block.text)}</pre>\n</figure>"


def _folded(block: Folded) -> str:
    inside = "\n".join(map(_block, block.blocks))
    return f"<details>\n<summary>{_text(block.title)}</summary>\n{inside}\n</details>"


_WRITERS: dict[type, Callable[[Any], str]] = {
    Paragraph: _paragraph,
    Notes: _notes,
    Facts: _facts,
    Table: _table,
    Confusion: _confusion,
    Picture: _picture,
    Verbatim: _verbatim,
    Folded: _folded,
}
