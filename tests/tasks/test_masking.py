"""What is hidden: as much and as often as it has to be, and the same again."""

import itertools

import numpy as np

from mambalab.tasks import masking


def test_every_sequence_has_every_count_equally_often():
    places = (np.arange(500) + 0.5) / 500
    found = np.stack([masking.counts(place, 3, 5) for place in places])
    for row in found.T:
        assert np.bincount(row, minlength=6).tolist() == [0, 100, 100, 100, 100, 100]
    assert masking.counts(np.nextafter(1, 0), 7, 5).max() == 5


def test_the_counts_of_a_batch_lie_evenly():
    for place in (0.013, 0.31, 0.999):
        found = np.bincount(masking.counts(place, 20, 5), minlength=6)
        assert found.tolist() == [0, 4, 4, 4, 4, 4]


def test_every_set_of_a_size_is_hidden_equally_often():
    words = np.array(list(itertools.permutations(range(4))))
    for count in (1, 2, 3, 4):
        found = masking.hidden(words, np.full(24, count))
        assert set(found.sum(1)) == {count}
        sets, often = np.unique(found, axis=0, return_counts=True)
        assert set(often) == {24 // len(sets)}
        assert len(sets) == {1: 4, 2: 6, 3: 4, 4: 1}[count]


def test_training_hides_by_seed_and_position_alone():
    first = masking.for_training(1, 2, 6, 9)
    assert np.array_equal(first, masking.for_training(1, 2, 6, 9))
    assert sorted(first.sum(1) - first.sum(1).min())[-1] >= 6  # few to many of nine, in any batch
    assert not np.array_equal(first, masking.for_training(1, 3, 6, 9))
    assert not np.array_equal(first, masking.for_training(2, 2, 6, 9))


def test_measuring_hides_the_same_in_any_batches():
    about = {"total": 12, "length": 6, "name": "val"}
    whole = masking.for_measuring(np.arange(12), sample=1, **about)
    parts = [masking.for_measuring(rows, sample=1, **about) for rows in np.split(np.arange(12), 3)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.bincount(whole.sum(1)).tolist() == [0, 2, 2, 2, 2, 2, 2]
    assert not np.array_equal(whole, masking.for_measuring(np.arange(12), sample=0, **about))
    others = masking.for_measuring(np.arange(12), sample=1, **about | {"name": "test"})
    assert not np.array_equal(whole, others)
