"""What a model was given to read, as people see it."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class InspectedSequence:
    """One sequence, or two of a pair, one after the other.

    Attributes:
        title: one line.
        facts: (name, value) pairs: the run, its weights, what the model answered.
        labels: one a step: the character, the token's number, or a place.
        text: whether labels are characters that make a text.
        image: (height, width, 1 or 3) uint8, if the sequence is an image.
        layout: (height, width) int64, the step in which each pixel of `image` is read.
        loss: (l,) nats for each step as the target of those before it, NaN where there is none.
        guesses: (l,) what the model expected there most, `""` where nothing.
        second: step at which the second sequence of a pair begins.
    """

    title: str
    facts: list[tuple[str, str]]
    labels: list[str]
    text: bool = False
    image: np.ndarray | None = None
    layout: np.ndarray | None = None
    loss: np.ndarray | None = None
    guesses: list[str] = field(default_factory=list)
    second: int | None = None


def visible(label: str) -> str:
    """A label as it can be read in a table: line ends and lone blanks get a sign."""
    signs = {"\n": "↵", "\t": "⇥"}
    shown = "".join(c if c.isprintable() else signs.get(c, "�") for c in label)
    return "␣" if shown == " " else shown
