"""A text that every Python brings along: the English help topics of CPython, made into prose."""

from __future__ import annotations

import platform
import re
import textwrap

from mambalab.errors import UserError

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
# A sentence's end; closing quotes, brackets and a footnote mark may follow: `... below.) [1]`
_SENTENCE_END = re.compile(r"[.:?!][\"'”’)*]*(?: \[\d+\])?$")
_MIN_PARAGRAPH_WORDS = 8  # shorter paragraphs are headings, signatures and labels
_MIN_LETTER_SHARE = (
    0.85  # share of letters and blanks below which a paragraph is code, grammar or a table
)


def help_topics() -> tuple[str, str]:
    """Extract the prose of `pydoc_data.topics`, and say which Python it came from.

    Topics in alphabetical order, paragraph by paragraph, with their line breaks but without their
    indentation; a blank line follows each. Left out are code, grammar, tables and headings, and
    every paragraph that occurred before: topics quote each other at length, and a repeated
    paragraph would put training text into the validation split. About a quarter of a megabyte,
    slightly different in each version of Python.

    Raises:
        UserError: this Python was installed without the topics.
    """
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError:
        raise UserError(
            "this Python comes without pydoc_data.topics, the text of task=text; "
            "give a text of your own: task.path=FILE"
        ) from None
    seen: set[str] = set()
    prose: list[str] = []
    for _, topic in sorted(topics.items()):
        for paragraph in _BLANK_LINES.split(topic.expandtabs()):
            words = " ".join(paragraph.split())
            if words not in seen and _is_prose(words):
                seen.add(words)
                prose.append(textwrap.dedent(paragraph).strip("\n"))
    text = "".join(f"{paragraph}\n\n" for paragraph in prose)
    return text, f"{platform.python_implementation()} {platform.python_version()} pydoc_data.topics"


def _is_prose(words: str) -> bool:
    """Whether a paragraph (its words joined by single blanks) consists of sentences."""
    if (
        words.count(" ") + 1 < _MIN_PARAGRAPH_WORDS
        or ">>> " in words
        or not _SENTENCE_END.search(words)
    ):
        return False
    letters = sum(character.isalpha() or character == " " for character in words)
    return letters >= _MIN_LETTER_SHARE * len(words)
