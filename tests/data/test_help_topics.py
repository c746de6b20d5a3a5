import re
import sys

import pytest

from mambalab.data.help_topics import help_topics
from mambalab.errors import UserError


def test_it_is_a_long_stable_text_that_names_its_python():
    text, source = help_topics()
    assert (text, source) == help_topics()
    assert len(text) > 200_000
    assert re.fullmatch(r"\w+ 3\.\d+\.\d+\S* pydoc_data\.topics", source)


def test_it_is_prose():
    text, _ = help_topics()
    letters = sum(character.isalpha() or character.isspace() for character in text)
    assert letters > 0.93 * len(text)
    for sign_of_code in (">>> ", "::=", "\n+---", "****", "\t"):
        assert sign_of_code not in text


def test_no_paragraph_comes_twice():
    # Topics quote each other; a repetition would carry training text into the validation split.
    paragraphs = [" ".join(p.split()) for p in help_topics()[0].split("\n\n") if p.strip()]
    assert len(paragraphs) > 800
    assert len(set(paragraphs)) == len(paragraphs)


def test_what_is_kept_of_a_topic(monkeypatch):
    topic = """Title of this topic
*******************

   Indented sentences count as well, whatever
   their place in the outline may be.

   >>> f(1, 2) and g(3, 4) or h(5) + 6 - 7 * 8

Indented sentences count as well, whatever their
place in the outline may be.

Too short a one.

Here is a longer sentence (with "quotes" and a note). [1]
"""
    stub = type(sys)("pydoc_data.topics")
    stub.topics = {"b": topic, "a": "The first topic in the alphabet comes first of all."}
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", stub)
    assert help_topics()[0] == (
        "The first topic in the alphabet comes first of all.\n\n"
        "Indented sentences count as well, whatever\ntheir place in the outline may be.\n\n"
        'Here is a longer sentence (with "quotes" and a note). [1]\n\n'
    )


def test_a_python_without_topics_is_told_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"without pydoc_data\.topics.*task\.path=FILE"):
        help_topics()
