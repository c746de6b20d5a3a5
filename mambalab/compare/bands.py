"""Curves of several runs as one: their mean, and a band that shows its uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mambalab.compare.statistics import t_quantile
from mambalab.records.reader import Curve


@dataclass(frozen=True)
class Band:
    """A mean curve with the 95 % interval of the mean at each step, by Student's t.

    Attributes:
        steps: the steps at which every run has a finite value; nothing is interpolated.
        mean: over the runs.
        half_width: half the width of the interval; empty for a single run.
    """

    steps: list[int]
    mean: list[float]
    half_width: list[float]

    @property
    def low(self) -> list[float]:
        """Lower edge of the band, at each step."""
        return [m - h for m, h in zip(self.mean, self.half_width, strict=True)]

    @property
    def high(self) -> list[float]:
        """Upper edge of the band, at each step."""
        return [m + h for m, h in zip(self.mean, self.half_width, strict=True)]


def band(curves: Sequence[Curve]) -> Band:
    """Average the curves that are not empty; the band is empty if they have no step in common."""
    import numpy as np

    finite = [{s: v for s, v in curve if v is not None} for curve in curves if curve]
    if not finite:
        return Band([], [], [])
    steps = sorted(set.intersection(*map(set, finite)))
    values = np.array([[run[step] for step in steps] for run in finite])
    n = len(finite)
    half_width: list[float] = []
    if n > 1:
        half_width = (t_quantile(n) / math.sqrt(n) * values.std(axis=0, ddof=1)).tolist()
    return Band(steps, values.mean(axis=0).tolist(), half_width)
