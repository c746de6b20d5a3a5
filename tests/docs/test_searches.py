"""The page of results shows what the searches found, and where an optimum is at an edge."""

import pytest

from docs.results import searches

DRAWN = {
    "optim.lr": {"low": 1e-3, "high": 2e-2, "log": True},
    "task.batch_size": [2, 4, 8],
    "dropout.p": [0.0, 0.1],
}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((4e-3, 4, 0.0), []),
        ((1.05e-3, 4, 0.0), ["smallest lr"]),
        ((1.95e-2, 2, 0.1), ["largest lr", "smallest batch", "largest p"]),
        ((4e-3, 8, 0.0), ["largest batch"]),
    ],
)
def test_an_optimum_at_an_end_of_its_range_is_told(values, told):
    found = dict(zip(DRAWN, values, strict=True))
    assert searches.edges(found, DRAWN) == told


@pytest.mark.parametrize("task", searches.TASKS)
def test_every_task_has_a_search_with_ranges(task):
    ranges = searches.ranges(task)
    assert "optim.lr" in ranges
    assert "seed" not in ranges


def test_searches_without_a_record_are_listed_as_such():
    text = searches.searches("")
    for search in searches.every():
        assert (f"| `{search.model}` |" in text) or (search.command in text)
