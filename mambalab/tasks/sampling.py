"""Random numbers addressed by (seed, position): what makes a training batch a pure function."""

import zlib
from functools import lru_cache

import numpy as np

_WORD = 2**64
_TUNING_SHARE = 10  # one of so many training examples validates with task.tune=true


def tuning_size(total: int) -> int:
    """How many of `total` training examples validate with `task.tune=true`: a tenth, rounded up."""
    return -(-total // _TUNING_SHARE)


def draw(seed: int, position: int, *, count: int, bound: int, stream: str = "batch") -> np.ndarray:
    """Draw `count` integers in [0, bound), int64, that depend on nothing but the arguments.

    Philox 4x64-10 is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as
    easy as 1, 2, 3"): `seed` and `stream` are its key and `position` the second word of its
    counter, so each position owns 2^64 blocks of its own and none is reached by counting up to it.
    Raw 64-bit words are reduced modulo `bound` (bias below bound / 2^64): NumPy keeps raw streams
    fixed between its versions, but not those of `Generator.integers`.

    Args:
        seed: any integer.
        position: >= 0, e.g. the number of the training batch.
        count: how many to draw.
        bound: >= 1.
        stream: name of the purpose; different names give unrelated numbers.
    """
    assert bound >= 1, bound
    words = _words(seed, position, count, stream)
    return (words % np.uint64(bound)).astype(np.int64)


def uniform(seed: int, position: int, *, count: int, stream: str) -> np.ndarray:
    """Draw `count` numbers in [0, 1), float64, addressed as in `draw`."""
    return (_words(seed, position, count, stream) >> np.uint64(11)) * 2.0**-53


@lru_cache(maxsize=4)
def permutation(seed: int, position: int, count: int, stream: str = "order") -> np.ndarray:
    """Permute 0 .. count - 1: int64, read-only, addressed as in `draw`."""
    order = np.argsort(_words(seed, position, count, stream), kind="stable")
    order.setflags(write=False)
    return order


def shuffled(seed: int, position: int, *, count: int, total: int) -> np.ndarray:
    """Choose the rows of batch `position` when `total` rows are visited in a new order each round.

    Args:
        seed: any integer.
        position: number of the batch, >= 0.
        count: rows in a batch; a batch may begin in one round and end in the next.
        total: rows there are.
    """
    places = np.arange(position * count, (position + 1) * count)
    rounds = places // total
    rows = np.empty(count, dtype=np.int64)
    for number in np.unique(rounds):
        chosen = rounds == number
        rows[chosen] = permutation(seed, int(number), total)[places[chosen] % total]
    return rows


def _words(seed: int, position: int, count: int, stream: str) -> np.ndarray:
    """`count` random 64-bit words, uint64."""
    assert position >= 0, position
    key = np.array([seed % _WORD, zlib.crc32(stream.encode())], dtype=np.uint64)
    counter = np.array([0, position, 0, 0], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)
