"""What torchrun told this process of its place, without importing torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Place of a process among those that torchrun started.

    Attributes:
        rank: number among all, from 0.
        local_rank: number among those of this machine, from 0.
        size: how many there are in all.
        restarts: how often torchrun started all of them again.
    """

    rank: int
    local_rank: int
    size: int
    restarts: int


def place() -> Place | None:
    """The place of this process; None if torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # another program may have a RANK, too
        return None
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    numbers = [os.environ.get(name, "") for name in names]
    if not all(number.isdecimal() for number in numbers):
        return None
    return Place(*map(int, numbers))


def is_follower() -> bool:
    """Whether this process takes part in a run for which another one speaks."""
    found = place()
    return found is not None and found.rank > 0
