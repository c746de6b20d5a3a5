"""What a model was given to read, as people see it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor


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
        loss: (l,) nats for each step as the target of those before it, or of what can be seen where
            it is hidden; NaN where there is none. Of an image (height * width,) for each pixel, the
            sum of its channels.
        guesses: of each loss what the model expected most, `""` where nothing.
        hidden: whether the losses are of what is hidden.
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
    hidden: bool = False
    second: int | None = None


@dataclass
class InspectInput:
    """What a model is given, and how people see it.

    Attributes:
        inputs: (1, l) int64 or (1, l, input_dim) float32; of pairs with a 2 after the 1.
        lengths: (1,) or (1, 2) true lengths, or None.
        sequence: all that is known before the model has read it.
        answer: writes the model's answer, its output, into the sequence.
    """

    inputs: Tensor
    lengths: Tensor | None
    sequence: InspectedSequence
    answer: Callable[[Tensor, InspectedSequence], None]


def by_pixel(values: Iterable[str], channels: int) -> list[str]:
    """What is told of the values of an image, those of a pixel together: nothing where nothing is
    told of any, `-` for one of which nothing is told beside others."""
    pixels = zip(*[iter(values)] * channels, strict=True)
    return [", ".join(one or "-" for one in pixel) if any(pixel) else "" for pixel in pixels]


def visible(label: str) -> str:
    """A label as it can be read in a table: line ends and lone blanks get a sign."""
    signs = {"\n": "↵", "\t": "⇥"}
    shown = "".join(c if c.isprintable() else signs.get(c, "�") for c in label)
    return "␣" if shown == " " else shown
