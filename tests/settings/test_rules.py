from dataclasses import dataclass

import pytest

from mambalab.errors import UserError
from mambalab.settings.rules import Rule, check, option


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Rule(ge=0, lt=1), [0, 0.5, None], [-1, 1, 1.5, float("nan"), float("inf")]),
        (Rule(gt=0, le=1), [1, 1e-9], [0, 2]),
        (Rule(), [1e30, -5, "any", [1], True], [float("inf"), [float("nan")]]),
        (Rule(auto=True, ge=1), ["auto", 3], ["automatic", 0, 2.0, True, None]),
        (Rule(length=2, ge=0), [[0, 1]], [[0], [0, -1], [0, 1, 2]]),
        (Rule(match="a+"), ["a", "aa"], ["", "ab", "b"]),
    ],
)
def test_rules(rule, good, bad):
    assert [rule.problem(value) for value in good] == [None] * len(good)
    assert all(rule.problem(value) for value in bad)


def test_the_problem_says_what_is_allowed():
    assert Rule(ge=0, lt=1).problem(2) == "must be at least 0 and below 1"
    assert Rule(auto=True, ge=1).problem(0) == "must be auto, or at least 1"
    assert Rule(match="x", hint="the letter x").problem("y") == "must be the letter x"


@dataclass
class Inner:
    number: int = option("a number", ge=1)

    def check(self):
        if self.number == 13:
            raise UserError("unlucky")


@dataclass
class Outer:
    inner: Inner
    name: str = option("a name", match="[a-z]+")


def test_check_walks_into_settings_and_names_the_key():
    check(Outer(Inner(1), "a"))
    with pytest.raises(UserError, match=r"^inner.number=0: must be at least 1$"):
        check(Outer(Inner(0), "a"))
    with pytest.raises(UserError, match=r"^name=A: must be"):
        check(Outer(Inner(1), "A"))
    with pytest.raises(UserError, match="unlucky"):
        check(Outer(Inner(13), "a"))
