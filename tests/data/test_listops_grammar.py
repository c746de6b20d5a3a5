"""Expressions of ListOps: their values, their shape, and how often each comes.

With `LISTOPS_FULL=1` in the environment 10,000 expressions as long as those of Long Range Arena
are worked out, else short ones.
"""

import builtins
import hashlib
import os
import random
import statistics
from collections import Counter

import numpy as np
import pytest

from mambalab.data import listops_grammar
from mambalab.data.listops_grammar import WORDS, Grammar, value_of, with_parentheses
from mambalab.errors import UserError

PUBLISHED = Grammar(min_words=500, max_words=2000, max_depth=10, max_args=10)
SHORT = Grammar(min_words=30, max_words=150, max_depth=6, max_args=5)
GRAMMAR = PUBLISHED if os.environ.get("LISTOPS_FULL") else SHORT
OPERATORS = {
    "[MAX": max,
    "[MIN": min,
    "[MED": lambda digits: int(statistics.median(digits)),
    "[SM": lambda digits: sum(digits) % 10,
}


def words(tokens: bytes) -> list[str]:
    return [WORDS[token] for token in tokens]


def tokens(text: str) -> bytes:
    return bytes(map(WORDS.index, text.split()))


def reduce(expression: list[str]) -> tuple[int, int, set[int]]:
    """Value, depth of the deepest digit, and numbers of arguments: a stack of words."""
    stack: list = []
    arguments, depth, deepest = set(), 1, 1
    for number, word in enumerate(expression):
        assert number == 0 or stack[0] in OPERATORS  # the first one is closed at the end only
        if word in OPERATORS:
            depth += 1
        elif word == "]":
            digits: list[int] = []
            while isinstance(stack[-1], int):
                digits.append(stack.pop())
            arguments.add(len(digits))
            word, depth = OPERATORS[stack.pop()](digits), depth - 1
        else:
            word, deepest = int(word), max(deepest, depth)
        stack.append(word)
    (value,) = stack
    return value, deepest, arguments


@pytest.fixture(scope="module")
def made() -> list[tuple[int, bytes]]:
    return list(GRAMMAR.expressions(seed=5, count=10_000))


def test_values_lengths_depths_and_arguments(made):
    deepest, most, lengths, values = 0, set(), Counter(), Counter()
    for value, expression in made:
        right, depth, arguments = reduce(words(expression))
        assert value == right == value_of(expression)
        deepest, most = max(deepest, depth), most | arguments
        lengths[len(expression)] += 1
        values[value] += 1
    assert deepest == GRAMMAR.max_depth
    assert most == set(range(2, GRAMMAR.max_args + 1))
    assert min(lengths) == GRAMMAR.min_words + 1
    assert GRAMMAR.max_words - 10 < max(lengths) < GRAMMAR.max_words
    assert all(600 < values[digit] < 1900 for digit in range(10)), values  # of 10,000
    assert values[0] + values[9] > 2200  # what minima and maxima tend to


def test_expressions_depend_on_the_seed_alone_and_none_comes_twice(made):
    assert len({expression for _, expression in made}) == len(made)
    again = list(GRAMMAR.expressions(seed=5, count=50))
    assert again == made[:50]
    others = {expression for _, expression in GRAMMAR.expressions(seed=6, count=50)}
    assert not others & {expression for _, expression in made}


def test_the_same_seed_gives_the_same_expressions_for_ever():
    found = hashlib.sha256()
    for value, expression in PUBLISHED.expressions(seed=0, count=20):
        found.update(bytes([value]) + expression)
    assert found.hexdigest() == "71589f70dcadb45296ac9f9f8f9588728c53d4b02d2b087c1a4994f7bea67ba9"


def published_rules(generator: random.Random, depth: int, grammar: Grammar) -> list[str]:
    """A tree by the rules of the published generator, as a recursion; may be of any length."""
    if depth == grammar.max_depth or generator.random() > 0.25:
        return [str(generator.randrange(10))]
    found = [generator.choice(list(OPERATORS))]
    for _ in range(generator.randint(2, grammar.max_args)):
        found += published_rules(generator, depth + 1, grammar)
    return [*found, "]"]


def test_each_expression_is_as_likely_as_by_the_published_rules():
    grammar = Grammar(min_words=8, max_words=40, max_depth=4, max_args=4)
    generator, theirs = random.Random(0), set()
    while len(theirs) < 3000:
        found = published_rules(generator, 1, grammar)
        if grammar.min_words < len(found) < grammar.max_words:
            theirs.add(tuple(found))
    ours = [tuple(words(found)) for _, found in grammar.expressions(seed=1, count=3000)]
    kinds = {
        "length": len,
        "depth": lambda e: reduce(list(e))[1],
        "value": lambda e: reduce(list(e))[0],
        **{word: lambda e, word=word: e.count(word) for word in WORDS[1:16]},
    }
    for name, kind in kinds.items():
        first, second = (np.array([kind(e) for e in part], float) for part in (list(theirs), ours))
        error = np.sqrt((first.var() + second.var()) / 3000)
        assert abs(first.mean() - second.mean()) < 3.5 * error, name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MED 1 4 ]", 2),  # the median is 2.5
        ("[MED 9 0 5 ]", 5),
        ("[MED 8 9 9 9 ]", 9),
        ("[SM 9 9 [SM 5 6 ] ]", 9),
        ("[MIN 3 ]", 3),
        ("", None),
        ("1 2", None),
        ("[MAX ]", None),
        ("[MAX 1 2", None),
        ("[MAX 1 2 ] ]", None),
        ("] 1", None),
        ("( 1", None),
    ],
)
def test_an_expression_is_worked_out_or_refused(text, value):
    assert value_of(tokens(text)) == value


def published_string(tree) -> str:
    """The text of a tree as the published generator writes it."""
    return f"( {' '.join(map(published_string, tree))} )" if isinstance(tree, tuple) else str(tree)


def test_parentheses_are_those_of_the_published_files():
    inner = ((("[MIN", 4), 7), "]")
    tree = ((((("[MAX", 2), 9), inner), 0), "]")
    texts = ["[MAX 2 9 [MIN 4 7 ] 0 ]", "5"]
    plain = np.zeros((2, 9), np.uint8)
    for row, text in zip(plain, texts, strict=True):
        row[: len(text.split())] = list(tokens(text))
    found, lengths = with_parentheses(plain, np.array([9, 1]))
    assert lengths.tolist() == [25, 1]
    assert " ".join(words(found[0].tobytes())) == published_string(tree)
    assert words(found[1].tobytes()) == ["5", *[""] * 24]


def test_parentheses_change_nothing_else(made):
    for _, expression in made[:20]:
        plain = np.frombuffer(expression, np.uint8)
        found, (length,) = with_parentheses(plain[None], np.array([len(plain)]))
        assert length == found.shape[1] == 3 * len(plain) - 2
        text = words(found[0].tobytes())
        assert [word for word in text if word not in "()"] == words(expression)
        assert text.count("(") == text.count(")") == len(plain) - 1


@pytest.mark.parametrize(
    ("grammar", "count"),
    [(Grammar(0, 100, 1, 2), 11), (Grammar(90, 93, 10, 2), 10**6)],
)
def test_expressions_that_hardly_exist_are_not_looked_for_for_ever(grammar, count, monkeypatch):
    monkeypatch.setattr(listops_grammar, "_MAX_TRIALS", 1000)
    monkeypatch.setattr(listops_grammar, "_CHUNK_TRIALS", 500)
    with pytest.raises(UserError, match=r"1,\d+ random expressions in a row .* after") as error:
        list(grammar.expressions(0, count))
    assert "\n" not in str(error.value)


def test_without_numba_it_says_so(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "numba":
            raise ModuleNotFoundError("No module named 'numba'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="made with numba, which is not installed"):
        listops_grammar.compiled.__wrapped__()
