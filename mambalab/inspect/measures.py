"""What can be read off a trace: memory lengths, what each step keeps, extreme characters.

State n of a channel is multiplied by exp(delta_t A[n]) in step t. Over many steps the exponents
add up, so the channel forgets as if delta were its mean, and -1 / (mean delta A[n]) is the
number of steps after which 1/e of a state is left: its memory length.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mambalab.inspect.sequence import InspectedSequence
from mambalab.inspect.trace import AttentionTrace, ScanTrace

LONG_MEMORY_STEPS = (64, 256)  # tokens; the table counts channels that remember longer
_EXTREMES_PER_SIDE = 8  # characters at each end
_FITTING_ROUNDS = 15  # rounds
_MIN_STEPS_FOR_REPEATS = 200  # steps from which a character must occur twice to be named


def memory(trace: ScanTrace) -> np.ndarray:
    """(d, n) memory lengths in steps, at each channel's mean delta."""
    return 1 / (trace.delta.mean(0, dtype=np.float64)[:, None] * -trace.A)


def longest_memory(trace: ScanTrace) -> np.ndarray:
    """(d,) memory length of each channel's slowest state."""
    return memory(trace).max(1)


def memory_by_step(trace: ScanTrace) -> np.ndarray:
    """(l,) median over channels of the slowest state's memory length, were delta to stay."""
    slowest = -trace.A.max(1)  # (d,)
    return np.median(1 / (trace.delta * slowest), axis=1)


def retention(trace: ScanTrace) -> np.ndarray:
    """(l,) share of the old state that a step keeps: exp(delta A), mean of channels and states."""
    total = np.zeros(len(trace.delta))
    for n in range(trace.A.shape[1]):  # (l, d, n) at once would be large
        total += np.exp(trace.delta * trace.A[:, n]).mean(1)
    return total / trace.A.shape[1]


def norm_by_step(trace: ScanTrace) -> np.ndarray:
    """(l,) Euclidean norm of a layer's complete state after each step."""
    return np.sqrt((trace.norm.astype(np.float64) ** 2).sum(1))


@dataclass
class Frequent:
    """A label with the mean of a value where it occurs."""

    label: str
    mean: float
    count: int


def extremes(
    values: np.ndarray, labels: list[str], over: np.ndarray | None = None
) -> tuple[list[Frequent], list[Frequent]]:
    """Labels with the highest and the lowest mean of `values` (l,), most extreme first; in a long
    sequence only those that occur more than once. With `over` (l,), the ratio of both sums."""
    over = np.ones(len(values)) if over is None else over
    where: dict[str, list[int]] = {}
    for step, label in enumerate(labels):
        where.setdefault(label, []).append(step)
    least = 2 if len(labels) >= _MIN_STEPS_FOR_REPEATS else 1
    found = [
        Frequent(label, float(values[steps].sum() / over[steps].sum()), len(steps))
        for label, steps in where.items()
        if len(steps) >= least
    ]
    found.sort(key=lambda one: one.mean)
    shown = min(_EXTREMES_PER_SIDE, (len(found) + 1) // 2)
    return found[::-1][:shown], found[:shown]


@dataclass
class ScanSummary:
    """A row of the table.

    Attributes:
        median: over channels, of the longest memory.
        shares: of channels whose longest memory exceeds each of `LONG_MEMORY_STEPS`.
        A_log_shift: median size of the change of A_log.
        highest, lowest: characters by mean delta.
    """

    median: float
    shares: list[float]
    A_log_shift: float
    highest: list[Frequent]
    lowest: list[Frequent]


def summarise(trace: ScanTrace, sequence: InspectedSequence) -> ScanSummary:
    """The row of a Mamba layer."""
    lengths = longest_memory(trace)
    high, low = extremes(trace.delta.mean(1), _compared(sequence))
    shares = [float((lengths > long).mean()) for long in LONG_MEMORY_STEPS]
    return ScanSummary(
        float(np.median(lengths)), shares, float(np.median(abs(trace.A_log_shift))), high, low
    )


def _compared(sequence: InspectedSequence) -> list[str]:
    """Labels of the steps; none if they are only places."""
    return sequence.labels if sequence.image is None else []


@dataclass
class AttentionReceived:
    """How much of the others' attention the steps get, mean of the heads.

    Attributes:
        total: (l,) sum over the steps that look.
        expected_by_distance: (l,) the same if they went by distance alone: what a step gets for its
            place.
        highest, lowest: characters by `total` over `expected_by_distance`.
    """

    total: np.ndarray
    expected_by_distance: np.ndarray
    highest: list[Frequent]
    lowest: list[Frequent]


def attention_received(trace: AttentionTrace, sequence: InspectedSequence) -> AttentionReceived:
    """Attention received, of each step and of characters."""
    weights = trace.weights.mean(0)
    ends = [0, *filter(None, (sequence.second,)), len(weights)]
    blocks = [weights[a:b, a:b] for a, b in pairwise(ends)]  # texts of a pair see only themselves
    expected_by_distance = np.concatenate([_expected_by_distance(block) for block in blocks])
    total = weights.sum(0)
    return AttentionReceived(
        total, expected_by_distance, *extremes(total, _compared(sequence), expected_by_distance)
    )


def _expected_by_distance(weights: np.ndarray) -> np.ndarray:
    """(l,) what each column of (l, l) gets if a weight depends on the distance q - k alone.

    These weights are f(q - k), scaled so that rows sum to 1; f is fitted so that every distance
    gets in sum what it really does (iterative proportional fitting).
    """
    steps = np.arange(len(weights))
    distances = steps[:, None] - steps + len(weights) - 1

    def by_distance(values: np.ndarray) -> np.ndarray:
        return np.bincount(distances.ravel(), values.ravel(), minlength=2 * len(weights) - 1)

    wanted = by_distance(weights)
    f = (wanted > 0).astype(np.float64)  # zero for what is to come, where that is not seen
    for _ in range(_FITTING_ROUNDS):
        fitted = f[distances]
        fitted /= fitted.sum(1, keepdims=True)
        f *= wanted / np.maximum(by_distance(fitted), 1e-300)
    return fitted.sum(0)


def distance(trace: AttentionTrace) -> np.ndarray:
    """(n_head,) how many steps away a head looks: mean over its weights and steps."""
    steps = np.arange(trace.weights.shape[1])
    apart = abs(steps[:, None] - steps)
    return (trace.weights * apart).sum(-1).mean(-1)
