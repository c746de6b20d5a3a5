"""The processes that train one model together: who is which, and what they tell each other.

A process started by torchrun finds its place in the environment (`RANK`, `WORLD_SIZE`, ...). All
build the same task and the same model; each takes its part of every batch, and gradients are
averaged, so that the step is that of one process with the whole batch. Rank 0 alone names the run,
writes its folder and is tracked; the others do what it says.
"""

import datetime
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mambalab.errors import UserError
from mambalab.train.progress import StoppedError
from mambalab.utils import torchrun

T = TypeVar("T")
_LAST_WORDS = 10.0  # seconds in which a launcher says that it stops the rest
_STOPS = (None, "SIGHUP", "SIGINT", "SIGTERM")  # by number, for `agree`
_PATIENCE = datetime.timedelta(minutes=60)  # rank 0 may fetch data or test alone for so long


class LostRankError(UserError):
    """Another process of the run ended in the midst of it."""


@dataclass(frozen=True)
class Ranks:
    """Processes that train together; as made by `Ranks()`, one that is alone.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that names, writes and speaks."""
        return self.rank == 0

    def agree(self, stop: str | None, seconds: float) -> tuple[str | None, float]:
        """Make all go on, or stop, at the same step.

        Args:
            stop: the signal that asked this process to stop, or None.
            seconds: of training so far, by the clock of this process.

        Returns:
            A signal that asked any of them, and the seconds of rank 0.
        """
        if self.size == 1:
            return stop, seconds
        told = torch.tensor([float(_STOPS.index(stop)), seconds * self.is_first])
        told = told.to(torch.float64)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return _STOPS[int(told[0])], float(told[1])

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over all processes; the same on each of them."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def tell(self, value: T | None = None) -> T:
        """Return the value that rank 0 gives; pickled, and so for trusted processes only."""
        if self.size == 1:
            return value  # pyright: ignore[reportReturnType]
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # pyright: ignore[reportReturnType]

    def wait(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def stopping_together(self) -> Iterator[None]:
        """Raise StoppedError in all processes at the end of the block if one of them raised it."""
        stop = None
        try:
            yield
        except StoppedError as stopped:
            if self.size == 1:
                raise
            stop = stopped.signal
        if self.size > 1 and (stop := self.agree(stop, 0.0)[0]):
            raise StoppedError(stop)


ALONE = Ranks()


class SharedMeasurement:
    """What a task needs to measure a split together with the other processes.

    Args:
        ranks: who they are.

    Attributes:
        is_first: whether this process measures what cannot be shared out.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.is_first = ranks.is_first
        self._stopped: str | None = None

    def batches(
        self, batches: Sequence[T], watch: Callable[[int, int], None] | None
    ) -> Iterator[T]:
        """Yield every `size`-th batch; a signal ends them early, and `sums` raises it."""
        own = batches[self.ranks.rank :: self.ranks.size]
        for number, batch in enumerate(own):
            if watch is not None:
                try:
                    watch(number, len(own))
                except StoppedError as stopped:
                    self._stopped = stopped.signal
                    return
            yield batch

    def sums(self, own: dict[str, Any]) -> dict[str, Any]:
        """Add numbers or arrays up over all processes by name, always in the same order.

        Raises:
            StoppedError: a signal ended the measurement of one of them; raised by all.
        """
        found: list[Any] = [None] * self.ranks.size
        dist.all_gather_object(found, (self._stopped, own))
        self._stopped = None
        if stops := [signal for signal, _ in found if signal is not None]:
            raise StoppedError(stops[0])
        total: dict[str, Any] = {}
        for _, sums in found:
            for name, value in sums.items():
                total[name] = total[name] + value if name in total else value
        return total


@contextmanager
def shared(task: Any, ranks: Ranks) -> Iterator[None]:
    """Share a measurement of `task` out inside the block, if there are several processes.

    A task that does not know how (`shares` is False) measures the whole in each of them.
    """
    if ranks.size > 1 and getattr(task, "shares", False):
        task.shared = SharedMeasurement(ranks)
    try:
        yield
    finally:
        if ranks.size > 1:
            task.shared = None


@contextmanager
def ending_together(ranks: Ranks, stop_requested: Callable[[], str | None]) -> Iterator[None]:
    """Say in one line that another process ended, where torch says that it was not heard.

    Args:
        ranks: the processes.
        stop_requested: whether the launcher stops this one: it does so when another ended.

    Raises:
        LostRankError: another process ended while this one was waiting for it.
    """
    try:
        yield
    except RuntimeError as error:
        if ranks.size == 1 or isinstance(error, torch.OutOfMemoryError) or _is_own(error):
            raise
        end = time.monotonic() + _LAST_WORDS
        while stop_requested() is None and time.monotonic() < end:
            time.sleep(0.1)
        if stop_requested() is None:
            raise
        raise LostRankError(
            "another process of this run ended; the same command goes on from the last checkpoint"
        ) from error


def _is_own(error: RuntimeError) -> bool:
    """Whether an error arose in this process: outside torch, or in what layers compute there."""
    torch_folder = Path(torch.__file__).parent
    place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    layers = (torch_folder / "nn" / "modules", torch_folder / "nn" / "functional.py")
    return not place.is_relative_to(torch_folder) or any(map(place.is_relative_to, layers))


@contextmanager
def beginning_together(ranks: Ranks) -> Iterator[None]:
    """Wait for another process inside the block, before training begins; say in one line that it
    ended instead.

    Raises:
        LostRankError: it did, and the launcher has not ended this process meanwhile.
    """
    try:
        yield
    except RuntimeError as error:
        if ranks.size == 1:
            raise
        time.sleep(_LAST_WORDS)  # the other one has said why
        raise LostRankError("another process of this run ended before training began") from error


def join(device: torch.device) -> Ranks:
    """Meet the other processes that torchrun started; alone if it started none.

    Raises:
        UserError: they cannot be reached.
    """
    place = torchrun.place()
    if place is None or place.size == 1:
        return ALONE
    backend = "cpu:gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        at = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"rank {place.rank} does not reach the other processes at {at}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return Ranks(place.rank, place.size)


def leave() -> None:
    """Part from the other processes; does nothing if there are none."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
