"""Where a text is cut into what trains and what validates."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from mambalab.errors import UserError
from mambalab.tasks.sampling import tuning_size

MIN_WINDOW_TOKENS = 8
"""Tokens in a window that is worth training on."""


@dataclass(frozen=True)
class TextCut:
    """The rule by which a text of any length is cut.

    Attributes:
        name: of the task, for messages.
        val_fraction: share at the end that validates; 0 if another text does.
        data_fraction: share of the training part that is kept.
        tuning: whether the last tenth of the training part validates instead.
    """

    name: str
    val_fraction: float
    data_fraction: float
    tuning: bool

    def validation_part(self, characters: int) -> tuple[int, int]:
        """Where the validation split begins and ends in a text of so many characters; what is
        before it trains."""
        begins = int(characters * (1 - self.val_fraction))
        return (begins - tuning_size(begins), begins) if self.tuning else (begins, characters)

    def validation_characters(self, characters: int) -> int:
        """Characters of the validation split."""
        begins, ends = self.validation_part(characters)
        return ends - begins

    def training_characters(self, characters: int) -> int:
        """Characters of the training split, which is at the beginning."""
        return int(self.validation_part(characters)[0] * self.data_fraction)

    def check_length(self, characters: int, seq_len: int) -> None:
        """Raise UserError unless both splits hold a window and the character after it."""
        window = seq_len + 1

        def shortest(total: int) -> int:
            return min(self.training_characters(total), self.validation_characters(total))

        def fits(total: int) -> bool:
            return shortest(total) >= window

        if fits(characters):
            return
        rest = 10**15  # characters of a text in which both splits surely have a window
        share = shortest(rest) / rest
        likely = min(math.ceil(window / share), 10**15) if share else 10**15
        needed = bisect_left(range(2 * likely), True, key=fits)
        remedy = self._remedy(characters, window)
        if (longest := shortest(characters)) > MIN_WINDOW_TOKENS:
            remedy += f", or task.seq_len={longest - 1} or less"
        raise UserError(
            f"the text of task {self.name} has {characters:,} characters, but task.seq_len="
            f"{seq_len} needs at least {needed:,} for a window in each of training "
            f"and validation (val_fraction={self.val_fraction}, "
            f"data_fraction={self.data_fraction}): {remedy}"
        )

    def _remedy(self, characters: int, window: int) -> str:
        """What helps most: more of the text if the whole of it would do, else another one."""
        validation = self.validation_characters(characters)
        training = self.validation_part(characters)[0]
        if min(validation, training) < window:
            return "give a longer text"
        share = (1000 * window // training + 1) / 1000
        return f"use data_fraction={min(share, 1.0):g} or more, or a longer text"
