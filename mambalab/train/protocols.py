"""Protocols: what the training loop needs of a task and of a recorder; it imports neither."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn


class Watchable(Protocol):
    """Anything whose measurements take long enough to be watched."""

    on_eval_batch: Callable[[int, int], None] | None  # batches done, and in all; may raise


class TrainableTask(Watchable, Protocol):
    """The side of a task that training uses; see `mambalab.tasks.base.Task` for the contract."""

    metric: str
    maximize: bool

    @property
    def items_per_batch(self) -> int:
        """Tokens in one training batch."""
        ...

    unit: str
    """What the speed is counted in: tokens, images, ..."""

    @property
    def units_per_batch(self) -> int:
        """How many of them a training batch has."""
        ...

    @property
    def batches_per_epoch(self) -> float | None:
        """Training batches in a pass over the training data; None if there is no end of them."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Where the data came from; the entry `sha256` is their identity."""
        ...

    def batch(self, position: int) -> Any:
        """Training batch number `position`: a pure function of data, seed and position."""
        ...

    def part(self, batch: Any, rank: int, size: int) -> Any:
        """What one of `size` processes takes of a batch."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean loss over a batch, a float32 scalar."""
        ...

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Metrics of a complete split."""
        ...


class MetricRecorder(Protocol):
    """Where the numbers of a run go; see `mambalab.tracking.recorder.Recorder`."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Record values of one step."""
        ...

    def flush(self) -> dict[str, int] | None:
        """Wait until all of it is on the disk; what a checkpoint keeps of its length, if any."""
        ...
