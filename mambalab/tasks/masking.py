"""Which positions of a sequence are hidden: the noise of masked diffusion, and its levels."""

from __future__ import annotations

import numpy as np

from mambalab.tasks.sampling import draw, permutation, uniform

_WORD = 2**63


def counts(place: float, rows: int, length: int) -> np.ndarray:
    """How many positions are hidden in each of `rows` sequences, (rows,) int64, 1 to `length`.

    The noise levels v_i = (place + i / rows) mod 1 lie evenly over [0, 1) (the low-discrepancy
    sampler of arXiv 2107.00630, appendix I.1); 1 + floor(length * v_i) positions are hidden. With
    `place` uniform in [0, 1) each count is uniform on its own, so a mean over them is unbiased,
    with a variance smaller than that of independent counts.

    Args:
        place: of the first level, in [0, 1).
        rows: sequences.
        length: positions of each.
    """
    levels = (place + np.arange(rows) / rows) % 1.0
    return np.minimum(1 + (length * levels).astype(np.int64), length)


def hidden(words: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Hide the positions with the smallest random words: (n, l) bool.

    Args:
        words: (n, l) random integers; every order of a row's is equally likely.
        count: (n,) how many of a row, 1 to l.
    """
    ordered = np.sort(words, axis=1)
    return words <= ordered[np.arange(len(words)), count - 1][:, None]


def for_training(seed: int, position: int, rows: int, length: int) -> np.ndarray:
    """What training batch `position` hides, (rows, length) bool: a pure function of these."""
    place = uniform(seed, position, count=1, stream="noise level")[0]
    words = draw(seed, position, count=rows * length, bound=_WORD, stream="noise")
    return hidden(words.reshape(rows, length), counts(place, rows, length))


def for_measuring(
    rows: np.ndarray, *, total: int, length: int, sample: int, name: str
) -> np.ndarray:
    """What measurement `sample` hides of some sequences, (n, length) bool.

    It depends on nothing but these arguments, neither on the run's seed nor on how sequences are
    batched: the same for every evaluation of every model. The levels of one sample lie evenly over
    all `total` sequences, in random order; samples are independent.

    Args:
        rows: (n,) numbers of the sequences.
        total: sequences there are.
        length: positions of each.
        sample: 0, 1, ...
        name: of the split, for other noise in each.
    """
    place = uniform(_SEED, sample, count=1, stream=f"place {name}")[0]
    order = permutation(_SEED, sample, total, f"levels {name}")
    numbers = [sample * total + int(row) for row in rows]
    words = [draw(_SEED, n, count=length, bound=_WORD, stream=f"noise {name}") for n in numbers]
    return hidden(np.stack(words), counts(place, total, length)[order[rows]])


def half(number: int, length: int) -> np.ndarray:
    """Half of a sequence, the larger one, hidden for people to look at: (1, length) bool."""
    words = draw(_SEED, number, count=length, bound=_WORD, stream="half")
    return hidden(words[None], np.array([length - length // 2]))


_SEED = 0  # of the noise of measurements
