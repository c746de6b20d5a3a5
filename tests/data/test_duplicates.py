"""Examples that are in two splits are found, and only these."""

import numpy as np

from mambalab.data import duplicates


def test_digests_tell_texts_and_their_bounds_apart():
    pairs = [(b"ab", b"c"), (b"a", b"bc"), (b"abc", b""), (b"c", b"ab")]
    assert len({duplicates.digest(*pair) for pair in pairs}) == 4
    assert duplicates.digest(b"ab", b"c") == duplicates.digest(b"ab", b"c")
    assert duplicates.digest(np.zeros((2, 2), np.uint8)) == duplicates.digest(bytes(4))


def test_every_pair_of_splits_is_compared(caplog):
    splits = {
        "train": np.array([1, 2, 3, 3], np.uint64),
        "val": np.array([4, 5, 2], np.uint64),
        "test": np.array([3, 4, 3, 9, 4], np.uint64),
    }
    duplicates.warn("mine.tsv", "pairs", splits)
    assert [r.getMessage().partition(";")[0] for r in caplog.records] == [
        "mine.tsv: 1 of 3 pairs in val are copies of one in train",
        "mine.tsv: 2 of 5 pairs in test are copies of one in train",
        "mine.tsv: 2 of 5 pairs in test are copies of one in val",
    ]


def test_none_is_no_warning(caplog):
    duplicates.warn("x", "images", {"train": np.array([1]), "val": np.array([2])})
    assert not caplog.records
