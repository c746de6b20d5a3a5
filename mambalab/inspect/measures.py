"""What can be read off a trace: memory lengths, what each step keeps, extreme characters.

State n of a channel is multiplied by exp(delta_t A[n]) in step t. Over many steps the exponents
add up, so the channel forgets as if delta were its mean, and -1 / (mean delta A[n]) is the
number of steps after which 1/e of a state is left: its memory length.
"""

from dataclasses import dataclass

import numpy as np

from mambalab.inspect.subject import Subject
from mambalab.inspect.trace import AttentionTrace, ScanTrace

LONG = (64, 256)  # tokens; the table counts channels that remember longer
_SHOWN = 8  # characters at each end
_OFTEN = 200  # steps from which a character must occur twice to be named


def memory(trace: ScanTrace) -> np.ndarray:
    """(D, N) memory lengths in steps, at each channel's mean delta."""
    return 1 / (trace.delta.mean(0, dtype=np.float64)[:, None] * -trace.A)


def longest_memory(trace: ScanTrace) -> np.ndarray:
    """(D,) memory length of each channel's slowest state."""
    return memory(trace).max(1)


def memory_by_step(trace: ScanTrace) -> np.ndarray:
    """(L,) median over channels of the slowest state's memory length, were delta to stay."""
    slowest = -trace.A.max(1)  # (D,)
    return np.median(1 / (trace.delta * slowest), axis=1)


def kept(trace: ScanTrace) -> np.ndarray:
    """(L,) share of the old state that a step keeps: exp(delta A), mean of channels and states."""
    total = np.zeros(len(trace.delta))
    for n in range(trace.A.shape[1]):  # (L, D, N) at once would be large
        total += np.exp(trace.delta * trace.A[:, n]).mean(1)
    return total / trace.A.shape[1]


def norm_by_step(trace: ScanTrace) -> np.ndarray:
    """(L,) Euclidean norm of a layer's whole state behind each step."""
    return np.sqrt((trace.norm.astype(np.float64) ** 2).sum(1))


@dataclass
class Frequent:
    """A label with the mean of a value where it occurs."""

    label: str
    mean: float
    count: int


def extremes(values: np.ndarray, labels: list[str]) -> tuple[list[Frequent], list[Frequent]]:
    """Labels with the highest and the lowest mean of `values` (L,), most extreme first; in a long
    sequence only those that occur more than once."""
    where: dict[str, list[int]] = {}
    for step, label in enumerate(labels):
        where.setdefault(label, []).append(step)
    least = 2 if len(labels) >= _OFTEN else 1
    found = [
        Frequent(label, float(values[steps].mean()), len(steps))
        for label, steps in where.items()
        if len(steps) >= least
    ]
    found.sort(key=lambda one: one.mean)
    shown = min(_SHOWN, (len(found) + 1) // 2)
    return found[::-1][:shown], found[:shown]


@dataclass
class ScanSummary:
    """A row of the table.

    Attributes:
        median: over channels, of the longest memory.
        shares: of channels whose longest memory exceeds each of `LONG`.
        moved: median size of the change of A_log.
        highest, lowest: characters by mean delta.
    """

    median: float
    shares: list[float]
    moved: float
    highest: list[Frequent]
    lowest: list[Frequent]


def summarise(trace: ScanTrace, subject: Subject) -> ScanSummary:
    """The row of a Mamba layer; labels that are only places are not compared."""
    lengths = longest_memory(trace)
    named = subject.labels if subject.image is None else []
    high, low = extremes(trace.delta.mean(1), named)
    shares = [float((lengths > long).mean()) for long in LONG]
    return ScanSummary(
        float(np.median(lengths)), shares, float(np.median(abs(trace.moved))), high, low
    )


def distance(trace: AttentionTrace) -> np.ndarray:
    """(n_head,) how many steps away a head looks: mean over its weights and steps."""
    steps = np.arange(trace.weights.shape[1])
    apart = abs(steps[:, None] - steps)
    return (trace.weights * apart).sum(-1).mean(-1)
