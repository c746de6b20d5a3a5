"""ListOps: nested operations on lists of digits, made at random and worked out.

The grammar is that of Long Range Arena (arXiv 2011.04006, section 2.2.1; the lists are those of
arXiv 1804.06028). An expression is a digit, or an operator, its arguments and "]":

    [MAX 2 9 [MIN 4 7 ] 0 ]    is 9

Each word is a token, one byte: the index of the word in `WORDS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mambalab.errors import UserError
from mambalab.utils.packages import pip_install, why_not_imported

WORDS = ("", *"0123456789", "[MAX", "[MIN", "[MED", "[SM", "]", "(", ")")
"""Word of each token; token 0 is padding."""

PLAIN_VOCABULARY = WORDS.index("(")
"""Tokens of expressions without parentheses."""

_DIGIT, _MAX, _MIN, _MED, _SM, _CLOSE, _LEFT, _RIGHT = map(
    WORDS.index, ("0", "[MAX", "[MIN", "[MED", "[SM", "]", "(", ")")
)
_OPERATOR_SHARE = 0.25  # of the nodes that may be operators; LRA's generator calls it VALUE_P
_CHUNK_TRIALS = 1 << 18  # random expressions drawn at a time: a fraction of a second
_CHUNK_TOKENS = 1 << 21
_MAX_TRIALS = 1 << 22  # in a row without a single one that is new and of the right length


@dataclass(frozen=True)
class Grammar:
    """Which random expressions are taken.

    A node is an operator with probability 0.25, else a digit; at depth `max_depth` (the root's is
    1) always a digit. The operator is one of the four, its number of arguments one of 2 to
    `max_args`, a digit one of ten: each as likely as the others. Expressions that are too short or
    too long are thrown away, and so are those that came before.

    Attributes:
        min_words, max_words: an expression has more words than the one and less than the other,
            operators, digits and "]" counted.
        max_depth: of a digit; operators are nested one level less deep.
        max_args: of an operator.
    """

    min_words: int
    max_words: int
    max_depth: int
    max_args: int

    def expressions(self, seed: int, count: int) -> Iterator[tuple[int, bytes]]:
        """Yield distinct expressions: the value, 0 to 9, and the tokens.

        They depend on the grammar and `seed` alone; a smaller `count` gives the first of them.

        Raises:
            UserError: there are hardly so many, or numba cannot be imported.
        """
        state = np.array([_state(seed)], dtype=np.uint64)
        tokens = np.empty(max(_CHUNK_TOKENS, 2 * self.max_words), dtype=np.uint8)
        ends = np.empty(_CHUNK_TRIALS, dtype=np.int64)
        values = np.empty(_CHUNK_TRIALS, dtype=np.uint8)
        limits = (self.min_words, self.max_words, self.max_depth, self.max_args)
        seen: set[bytes] = set()
        trials = 0  # since the last expression that was taken
        while len(seen) < count:
            tried, found = compiled().fill(state, _CHUNK_TRIALS, tokens, ends, values, *limits)
            trials, start = trials + tried, 0
            for end, value in zip(ends[:found].tolist(), values[:found].tolist(), strict=True):
                expression, start = tokens[start:end].tobytes(), end
                digest = hashlib.blake2b(expression, digest_size=16).digest()
                if digest in seen or len(seen) == count:
                    continue
                seen.add(digest)
                trials = 0
                yield value, expression
            if trials >= _MAX_TRIALS:
                raise UserError(
                    f"task=listops: {trials:,} random expressions in a row were none of more than "
                    f"task.min_words={self.min_words} and less than task.max_words="
                    f"{self.max_words} words that is new, after {len(seen):,} of {count:,}: widen "
                    f"this range, raise task.max_depth={self.max_depth} or "
                    f"task.max_args={self.max_args}, or ask for fewer examples"
                )


def _state(seed: int) -> int:
    """Spread a seed over 64 bits."""
    return int.from_bytes(hashlib.blake2b(f"listops {seed}".encode(), digest_size=8).digest())


def value_of(tokens: bytes) -> int | None:
    """Work out an expression without parentheses; None if the tokens are none."""
    found = int(compiled().evaluate(np.frombuffer(tokens, dtype=np.uint8)))
    return None if found < 0 else found


def with_parentheses(tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the parentheses of Long Range Arena's files into expressions.

    There an operator takes its arguments one by one, each time in a pair of parentheses:
    `[MAX 2 9 ]` is `( ( ( [MAX 2 ) 9 ) ] )`.

    Args:
        tokens: (b, l) uint8, expressions without parentheses, then zeros.
        lengths: (b,) int64 of the expressions.

    Returns:
        Tokens (b, 3 * longest - 2) uint8 with zeros at the ends, and lengths (b,) int64: 3 times
        the lengths, less 2.
    """
    longer = 3 * lengths - 2
    found = np.zeros((len(tokens), int(longer.max())), dtype=np.uint8)
    compiled().put_parentheses(tokens, lengths, found)
    return found, longer


@dataclass(frozen=True)
class Compiled:
    """The loops over tokens, as machine code.

    Attributes:
        fill: draws expressions into a buffer.
        evaluate: works an expression out.
        put_parentheses: copies expressions with their parentheses.
    """

    fill: Any
    evaluate: Any
    put_parentheses: Any


@cache
def compiled() -> Compiled:
    """Compile the loops, which takes a second or two.

    Raises:
        UserError: numba cannot be imported.
        ImportError: because memory ran out.
    """
    try:
        from numba import njit
    except ImportError as error:
        raise UserError(
            f"task=listops: its expressions are made with numba, which is "
            f"{why_not_imported(error)}: {pip_install('--upgrade numba')}"
        ) from error

    @njit
    def draw(state: Any) -> Any:
        """Draw 64 bits: SplitMix64 (Steele, Lea and Flood 2014)."""
        state[0] += np.uint64(0x9E3779B97F4A7C15)
        z = state[0]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    @njit
    def below(state: Any, bound: int) -> Any:
        """Draw one of 0 to bound - 1."""
        return np.int64(draw(state) % np.uint64(bound))

    @njit
    def result(operator: int, counts: Any) -> int:
        """Apply an operator to digits of which `counts` (10,) says how often each occurs."""
        number, total, low, high = 0, 0, 9, 0
        for digit in range(10):
            if counts[digit]:
                low, high = min(low, digit), max(high, digit)
                number += counts[digit]
                total += digit * counts[digit]
        if operator == _MAX:
            return high
        if operator == _MIN:
            return low
        if operator == _SM:
            return total % 10
        lower, upper, passed = -1, -1, 0  # the two in the middle; the same one if `number` is odd
        for digit in range(10):
            passed += counts[digit]
            if lower < 0 and passed > (number - 1) // 2:
                lower = digit
            if upper < 0 and passed > number // 2:
                upper = digit
        return (lower + upper) // 2  # half a step is dropped, as by int(median)

    @njit
    def one(
        state: Any, tokens: Any, max_words: int, max_depth: int, max_args: int, rest: Any,
        counts: Any, operators: Any,
    ) -> tuple[int, int]:  # fmt: skip
        """Draw an expression into `tokens`: its length and value; length 0 if it gets too long."""
        length, level = 0, 0  # `level`: operators that are open
        while length < max_words - 1:
            chance = np.float64(draw(state) >> np.uint64(11)) * 2.0**-53
            if level + 1 < max_depth and chance < _OPERATOR_SHARE:
                operators[level] = _MAX + below(state, 4)
                rest[level] = 2 + below(state, max_args - 1)
                counts[level] = 0
                tokens[length] = operators[level]
                length, level = length + 1, level + 1
                continue
            digit = below(state, 10)
            tokens[length] = _DIGIT + digit
            length += 1
            while True:  # hand the value on to the operator around it, which may be complete then
                if level == 0:
                    return length, digit
                counts[level - 1, digit] += 1
                rest[level - 1] -= 1
                if rest[level - 1]:
                    break
                if length == max_words - 1:
                    return 0, 0
                level -= 1
                digit = result(operators[level], counts[level])
                tokens[length] = _CLOSE
                length += 1
        return 0, 0

    @njit
    def fill(
        state: Any, trials: int, tokens: Any, ends: Any, values: Any, min_words: int,
        max_words: int, max_depth: int, max_args: int,
    ) -> tuple[int, int]:  # fmt: skip
        """Draw `trials` expressions, or until `tokens` is full: how many, and how many fitted."""
        rest = np.zeros(max_depth, np.int64)
        operators = np.zeros(max_depth, np.int64)
        counts = np.zeros((max_depth, 10), np.int64)
        start, found = 0, 0
        for trial in range(trials):
            if start + max_words > len(tokens):
                return trial, found
            length, value = one(
                state, tokens[start:], max_words, max_depth, max_args, rest, counts, operators
            )
            if length > min_words:
                start += length
                ends[found], values[found] = start, value
                found += 1
        return trials, found

    @njit
    def evaluate(tokens: Any) -> Any:
        """Work out an expression: its value, or -1 if it is none."""
        operators = np.zeros(len(tokens), np.int64)
        counts = np.zeros((len(tokens), 10), np.int64)
        level = 0
        for place in range(len(tokens)):
            token = np.int64(tokens[place])
            if place and level == 0:
                return -1  # something behind the end
            if _MAX <= token < _CLOSE:
                operators[level] = token
                counts[level] = 0
                level += 1
                continue
            if token == _CLOSE:
                if level == 0 or counts[level - 1].sum() == 0:
                    return -1
                level -= 1
                digit = result(operators[level], counts[level])
            else:
                digit = token - _DIGIT
                if not 0 <= digit < 10:
                    return -1
            if level == 0:
                return digit if place == len(tokens) - 1 else -1
            counts[level - 1, digit] += 1
        return -1

    @njit
    def put_parentheses(tokens: Any, lengths: Any, found: Any) -> None:
        """Copy expressions, with parentheses, into zeros."""
        around = np.zeros(tokens.shape[1], np.int64)  # places of the operators that are open
        arguments = np.zeros(tokens.shape[1], np.int64)  # of the operator at each place
        for row in range(len(tokens)):
            for count_only in (True, False):
                level, end = 0, 0
                for place in range(lengths[row]):
                    token = tokens[row, place]
                    if _MAX <= token < _CLOSE:
                        if count_only:
                            arguments[place] = 0
                        else:
                            found[row, end : end + arguments[place] + 1] = _LEFT
                            end += arguments[place] + 1
                            found[row, end] = token
                            end += 1
                        around[level] = place
                        level += 1
                        continue
                    if not count_only:
                        found[row, end] = token
                        end += 1
                    if token == _CLOSE:
                        level -= 1
                        if not count_only:
                            found[row, end] = _RIGHT
                            end += 1
                    if level:
                        if count_only:
                            arguments[around[level - 1]] += 1
                        else:
                            found[row, end] = _RIGHT
                            end += 1

    return Compiled(fill, evaluate, put_parentheses)
