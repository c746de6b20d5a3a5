"""Random numbers addressed by (seed, position): what makes a training batch a pure function."""

import zlib

import numpy as np

_WORD = 2**64


def draw(seed: int, position: int, *, count: int, bound: int, stream: str = "batch") -> np.ndarray:
    """`count` integers in [0, bound), int64, that depend on nothing but the arguments.

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
    assert position >= 0, position
    assert bound >= 1, bound
    key = np.array([seed % _WORD, zlib.crc32(stream.encode())], dtype=np.uint64)
    counter = np.array([0, position, 0, 0], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(count)
    return (words % np.uint64(bound)).astype(np.int64)
