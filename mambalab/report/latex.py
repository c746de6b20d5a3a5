"""The results of a comparison as a table for LaTeX, with booktabs.

It compiles with pdfLaTeX of any year after 2018, XeLaTeX and LuaLaTeX: `\\usepackage{booktabs}`,
then `\\input` the file.
"""

import re
import unicodedata
from collections.abc import Sequence

from mambalab.compare.results import BASELINE, Comparison, GroupResult
from mambalab.compare.text import adjusted_p, interval
from mambalab.utils.text import printable

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    "`": "{}`{}",  # behind ? and ! it would become another sign
    "[": "{[}",  # at the beginning of a row both would belong to the end of the last one
    "*": "{*}",
    "±": r"$\pm$",
    "…": r"\ldots{}",
    "·": r"\textperiodcentered{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "’": "'",
}
# On letters below MAX_KNOWN: what every LaTeX knows as UTF-8, in the encoding it begins with.
MAX_KNOWN = 0x180
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")
_NUMBER = re.compile(r"(?<![\w.+-])(<?[+-]?)(\d[\d,]*(?:\.\d+)?)(?:e([+-]?\d+))?(?![\w.])")
_MEASURED = re.compile(r"[-+<\d.,e ±()to]*")  # a cell of numbers, and nothing else


def table(comparison: Comparison) -> str:
    """Write the table: caption, label, a row for each group, and what its numbers are.

    Args:
        comparison: the best group first.
    """
    name = escape(comparison.metric.name)
    several = len(comparison.groups) > 1 and not comparison.is_ranked
    tested = any(group.test for group in comparison.groups)
    header = ["group", "$n$", f"best {name}"]
    header += [escape(comparison.metric.of_test)] if tested else []
    header += ["difference", "$p$ (Holm)", "verdict"] if several else []
    columns = "lr" + "r" * (len(header) - 2)
    columns = f"{columns[:-1]}l" if several else columns
    rows = [_row(comparison, group, tested, several) for group in comparison.groups]
    lines = [
        "% Needs \\usepackage{booktabs}.",
        "\\begin{table}[htbp]",
        "  \\centering",
        f"  \\caption{{{_caption(comparison)}}}",
        f"  \\label{{{_label(comparison)}}}",
        f"  \\begin{{tabular}}{{{columns}}}",
        "    \\toprule",
        f"    {_line(header)}",
        "    \\midrule",
        *(f"    {_line(row)}" for row in rows),
        "    \\bottomrule",
        "  \\end{tabular}",
        "",
        "  \\medskip",
        "  \\begin{minipage}{0.9\\linewidth}",
        "    \\footnotesize",
        *(f"    {line}" for line in _note(comparison)),
        "  \\end{minipage}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Escape a text so that LaTeX prints it as it is; `?` for what pdfLaTeX has no glyph for."""
    escaped = "".join(_ESCAPES.get(c) or _known(c) for c in printable(text))
    return re.sub(r"([-'])(?=\1)", r"\1{}", escaped)  # two in a row would become another sign


def _known(character: str) -> str:
    if character.isascii():
        return character
    base, *marks = unicodedata.normalize("NFD", character)
    is_accented = base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS
    known = (is_accented and ord(character) < MAX_KNOWN) or character in "ßæœøÆŒØ"
    return character if known else "?"


def cell(text: str) -> str:
    """Write a cell of numbers in mathematics, and any other as text."""
    if text == "-":
        return "--"
    if not _MEASURED.fullmatch(text):
        return escape(text)
    return _NUMBER.sub(_in_mathematics, text).replace("$ ± $", r" \pm ")


def _in_mathematics(found: re.Match[str]) -> str:
    sign, digits, power = found.groups()
    scale = "" if power is None else rf" \times 10^{{{int(power)}}}"
    return f"${sign}{digits.replace(',', '{,}')}{scale}$"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _row(comparison: Comparison, group: GroupResult, tested: bool, several: bool) -> list[str]:
    bootstrap = comparison.bootstrap
    row = [escape(group.label), f"${len(group.runs)}$"]
    row.append(cell(interval(group.best, bootstrap=bootstrap)))
    if tested:
        row.append(cell(interval(group.test, bootstrap=bootstrap)))
    if several:
        pair = group.difference
        row.append(cell(interval(pair and pair.estimate, sign="+")))
        row += [cell(adjusted_p(pair)), escape(group.verdict)]
    return row


def _caption(comparison: Comparison) -> str:
    wish = "more" if comparison.metric.maximize else "less"
    name, task = escape(comparison.metric.name), escape(comparison.task)
    return f"Best {name} on {task} by group ({wish} is better)."


def _label(comparison: Comparison) -> str:
    """The name by which a text refers to the table: letters, digits and hyphens alone."""
    words = f"{comparison.task}-{comparison.metric.name}"
    return f"tab:{re.sub('[^a-zA-Z0-9]+', '-', words).strip('-') or 'comparison'}"


def _note(comparison: Comparison) -> list[str]:
    """Say what the numbers are, and what a reader must bear in mind, a sentence a line."""
    counts = sorted({len(group.runs) for group in comparison.groups})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    method = "bootstrapped" if comparison.bootstrap else "Student's t"
    plural = "" if counts[-1] == 1 else "s"
    lines = [f"Mean over n = {seeds} seed{plural} with its 95 % interval ({method})."]
    if counts[-1] == 1:
        lines = ["One seed: the values have no interval."]
    if len(comparison.groups) > 1 and not comparison.is_ranked:
        base = next(g.label for g in comparison.groups if g.verdict == BASELINE)
        lines.append(
            f"Difference: of the best values to {base}, seed by seed, with its 95 % interval; "
            "p: paired t-test, adjusted by Holm's method for the number of groups."
        )
    bear = [*comparison.dropout, *comparison.warnings]
    lines += [f"{line[:1].upper()}{line[1:].rstrip('.')}." for line in bear]
    return [escape(line) for line in lines]
