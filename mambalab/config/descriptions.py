"""What the options of groups are for, by their YAML: the first line of its comment, or sentence."""

import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from mambalab.config import origins, paths
from mambalab.errors import UserError
from mambalab.utils.reading import inside, read_bytes
from mambalab.utils.text import printable

MAX_FILE_BYTES = 1_000_000
MAX_NAME_CHARS = 28  # of an option, with what it is for on the same line
_BUILT_IN = {(paths.LAUNCHER_GROUP, "basic"): "One job after the other."}
_SENTENCE = re.compile(r"(.+?[.?!])(?=\s+[^a-z]|$)")


def about(group: str, option: str) -> str:
    """Say what an option is; empty if its file says nothing.

    That is the first line of the comment at its top if a sentence ends there, else its first
    sentence.

    Args:
        group: the group.
        option: its option, a user's own in ./conf perhaps.
    """
    if (group, option) in _BUILT_IN:
        return _BUILT_IN[group, option]
    for root in paths.folders():
        file = root / group / f"{option}.yaml"
        if file.is_file():
            return _first_sentence(_comment(file, root))
    return ""


def is_sweep(experiment: str) -> bool:
    """Whether an experiment is several runs, for `mambalab train -m`."""
    return origins.experiment_of("sweep.params", [experiment], below=True) is not None


def listed(rows: Sequence[tuple[str, str]], width: int | None = None) -> str:
    """Lay out names and what they are for, wrapped to a width.

    Args:
        rows: of name and purpose.
        width: columns; None = those of the terminal, 110 at most.
    """
    if width is None:
        width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    column = min(max(len(name) for name, _ in rows), MAX_NAME_CHARS) + 2
    lines = []
    for name, purpose in rows:
        start = f"{name:{column}}"
        if len(name) > MAX_NAME_CHARS:  # a long name has the line for itself
            lines.append(name)
            start = " " * column
        room = max(width - column, 20)
        for i, line in enumerate(textwrap.wrap(purpose, room, break_on_hyphens=False) or [""]):
            lines.append(f"{start if i == 0 else ' ' * column}{line}".rstrip())
    return "\n".join(lines)


def _comment(file: Path, root: Path) -> list[str]:
    """The lines of the comment at the top of a YAML file."""
    try:
        data = read_bytes(file, root if inside(file, root) else root.parent, limit=MAX_FILE_BYTES)
    except (UserError, OSError):  # a list of options goes on; choosing this one says what is wrong
        return []
    lines: list[str] = []
    for line in data.decode("utf-8", "replace").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        if line.endswith(".yaml") and len(line.split()) == 2:  # where the file lies
            continue
        lines.append(printable(line.lstrip("#").strip()))
    return lines


def _first_sentence(lines: list[str]) -> str:
    """The first line if it ends a sentence, else the first sentence, or all if it has no end."""
    if lines and lines[0].endswith((".", "?", "!")):
        return lines[0]
    text = " ".join(lines)
    found = _SENTENCE.match(text)
    return found[1] if found else text
