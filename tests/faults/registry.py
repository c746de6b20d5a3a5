"""The kinds of faults: name, promise and how to play one."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from tests.faults.scene import Play

TRIES = 20  # of each kind, unless it says more
ROOMS = (
    *("kills", "signals", "disks", "checkpoints", "records", "settings"),
    *("stores", "servers", "resources", "folders", "sweeps"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: as in the table and in `--kind`.
        promise: what must come of it.
        play: injects it once and checks the promise; raises BrokenPromiseError.
        tries: how many `make faults` makes.
        limit: seconds that one try may take.
    """

    name: str
    promise: str
    play: Play
    tries: int
    limit: float


KINDS: dict[str, Kind] = {}


def kind(
    name: str, promise: str, *, tries: int = TRIES, limit: float = 1800.0
) -> Callable[[Play], Play]:
    """Register a function as a kind of fault."""

    def register(play: Play) -> Play:
        assert name not in KINDS, name
        KINDS[name] = Kind(name, promise, play, tries, limit)
        return play

    return register


def load() -> dict[str, Kind]:
    """All kinds by name."""
    for room in ROOMS:
        import_module(f"tests.faults.kinds.{room}")
    return KINDS
