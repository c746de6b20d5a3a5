"""What a task is: data, the loss on it, and how well a model does. Subclass `Task` to add your own.

A subclass writes four short methods: `prepare` (load the data, set `self.spec`), `batch` (the k-th
training batch), `loss` (of a model on a batch) and `measure` (a model on a whole split). Everything
else has a default. Name the class in `conf/task/mine.yaml` (`_target_: mymodule.MyTask`) and it is
trained, resumed, tracked and evaluated like the built-in tasks; your own options arrive in
`settings.params`.

    class Squares(Task):
        def prepare(self, device="cpu"):
            self.table = torch.arange(100, device=device) ** 2 % 10
            self.spec = ModelSpec(vocab_size=10, seq_len=16)

        def batch(self, position):
            starts = draw(self.seed, position, count=self.settings.batch_size, bound=80)
            rows = torch.from_numpy(starts)[:, None] + torch.arange(17)
            window = self.table[rows.to(self.table.device)]
            return window[:, :-1], window[:, 1:]

        def loss(self, model, batch):
            inputs, targets = batch
            return F.cross_entropy(model(inputs).float().flatten(0, 1), targets.flatten())

        def measure(self, model, split):
            whole = self.table[None, :-1], self.table[None, 1:]
            return {f"{split}/loss": self.loss(model, whole).item()}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mambalab.errors import UserError
from mambalab.settings.rules import check
from mambalab.settings.task import TaskSettings
from mambalab.spec import ModelSpec
from mambalab.utils.renamed import current, keep_old_names

T = TypeVar("T")
S = TypeVar("S", float, np.ndarray)


class Shared(Protocol):
    """What several processes use to share a measurement out; see `train.ranks`."""

    is_first: bool
    """Whether this process measures what cannot be shared out."""

    def batches(
        self, batches: Sequence[T], watch: Callable[[int, int], None] | None
    ) -> Iterator[T]:
        """Yield the batches that this process measures."""
        ...

    def sums(self, own: dict[str, S]) -> dict[str, S]:
        """Add numbers or arrays up over all processes, by name."""
        ...


Batch: TypeAlias = Any
"""Whatever a task's `batch` returns and its `loss` takes; nobody else looks inside."""

Table: TypeAlias = dict[str, Any]
"""A result that is more than a number, as JSON: `kind` (what a report makes of it), `title`, and
what that kind holds. `confusion`: `classes` (names), `counts[true][predicted]`. `curve`: `x`, `y`,
`x_label`, `y_label`, `marked` (an x worth a line: the training length)."""


class Task(ABC):
    """Data, loss and metrics of one benchmark.

    Override `measure` and `measure_detailed`; call `evaluate` and `evaluate_detailed`: they
    put the model into evaluation mode, without gradients, and call the former.

    Attributes:
        settings: the options of the config group `task`.
        seed: of the run; everything random in the training data follows from it.
        data_dir: folder in which data files are looked for and to which they are fetched.
        data_fraction: share of the training data to use, 0 < data_fraction <= 1.
        name: of the task, as in run folders and reports.
        spec: the shape of the task as a model sees it; set by `prepare`.
        splits: names that `evaluate` accepts; no `test` with `task.tune=true`.
        tuning: whether settings are being chosen (`task.tune=true`): `val` has to be a part of the
            training data then, and what validates and tests otherwise stays unseen.
        tunes: whether `tuning` is obeyed; `prepare` sets it where it takes that part away.
        metric: the key of `evaluate`'s result by which checkpoints are chosen.
        maximize: whether a higher `metric` is better.
        loss_unit: unit of the loss, for the axis of a picture.
        unit: what `units_per_batch` counts, in the plural: tokens, images.
        on_eval_batch: called by `eval_batches` with how many batches are measured, and how many
            there are; may raise, to end the measurement. None: nobody watches.
        shares: whether `measure` goes through `eval_batches` and adds up with `summed`, so that
            several processes can share a measurement out. A subclass with a `measure` or
            `measure_detailed` of its own has to say so itself; else each measures the whole.
        shared: how they do it just now; None = this process measures alone.
    """

    spec: ModelSpec
    splits: tuple[str, ...] = ("train", "val")
    metric: str = "val/loss"
    maximize: bool = False
    tuning: bool = False
    tunes: bool = False
    loss_unit: str = "nats"
    unit: str = "tokens"
    on_eval_batch: Callable[[int, int], None] | None = None
    shares: bool = False
    shared: Shared | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        places = {
            name: at for at, kind in reversed([*enumerate(cls.__mro__)]) for name in vars(kind)
        }
        if min(places[name] for name in places.keys() & _MEASURES) < places["shares"]:
            cls.shares = False
        keep_old_names(cls, Task, _OLD_METHODS, _OLD_ATTRIBUTES)

    def __init__(
        self, settings: TaskSettings, *, seed: int, data_dir: Path, data_fraction: float
    ) -> None:
        """Keep the options; reads no file.

        Raises:
            UserError: an option out of range.
        """
        check(settings, "task.")
        if not 0 < data_fraction <= 1:
            raise UserError(f"data_fraction={data_fraction}: must be above 0 and at most 1")
        self.settings = settings
        self.seed = seed
        self.data_dir = Path(data_dir)
        self.data_fraction = data_fraction
        self.name = settings.name
        if settings.tune is True:  # a settings object made by hand may lack it
            self.tuning = True
            self.splits = tuple(split for split in self.splits if split != "test")

    @abstractmethod
    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Find or fetch the data, check it, put it on `device`, and set `self.spec`.

        Raises:
            UserError: the data are absent and cannot be fetched, or are not what they should be.
        """

    @abstractmethod
    def batch(self, position: int) -> Batch:
        """Build training batch `position` (0, 1, 2, ...; micro-batches when gradients accumulate).

        Must be a pure function of the data, `self.seed` and `position`: a run that resumes at
        position k asks for batch k and gets what the uninterrupted run got. `sampling.draw` gives
        random numbers of this kind.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the mean loss of `model` on `batch`: a float32 scalar with a gradient."""

    @abstractmethod
    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """Every metric of `model` on the whole of `split`, keyed `<split>/<metric>`.

        Called by `evaluate`, which has put the model into evaluation mode and switched gradients
        off. Average over examples, not over batches: the last batch may be smaller. Go through the
        batches with `eval_batches` if there are many.
        """

    def eval_batches(self, batches: Sequence[T]) -> Iterator[T]:
        """Yield the batches of a measurement, one after the other.

        Between two of them it is shown how far the measurement is, and the run can be stopped.
        """
        if self.shared is not None:
            watch = current(self, "on_eval_batch", "watch")
            yield from self.shared.batches(batches, watch)
            return
        for number, batch in enumerate(batches):
            watch = current(self, "on_eval_batch", "watch")
            if watch is not None:
                watch(number, len(batches))
            yield batch

    def summed(self, sums: dict[str, S]) -> dict[str, S]:
        """Add sums up over the processes that share a measurement; returns its own if it is alone.

        Args:
            sums: numbers or NumPy arrays by name; a name that another process lacks is 0 there.
        """
        return sums if self.shared is None else self.shared.sums(sums)

    def part(self, batch: Batch, rank: int, size: int) -> Batch:
        """What process `rank` of `size` takes of a training batch: its share of the rows.

        Every tensor of the batch is cut along its first dimension. A task whose batches are built
        otherwise, or whose `loss` is no mean over rows of equal weight, overrides this.

        Raises:
            UserError: a batch cannot be shared out equally.
        """
        rows = self.settings.batch_size
        check_share(rows, size)
        own = slice(rank * rows // size, (rank + 1) * rows // size)

        def cut(leaf: Any) -> Any:
            if leaf is None:
                return None
            if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == rows:
                return leaf[own]
            raise UserError(
                f"task {self.name}: its batches hold more than tensors of {rows} rows; let it say "
                "what one of several processes takes, in a method part(batch, rank, size)"
            )

        return pytree.tree_map(cut, batch)

    @property
    def items_per_batch(self) -> int:
        """Tokens (steps of all sequences) in a training batch: the unit of the reported speed."""
        return self.settings.batch_size * self.spec.seq_len

    @property
    def units_per_batch(self) -> int:
        """`unit`s in a training batch: in these the terminal shows the speed."""
        return self.items_per_batch

    def known_spec(self) -> ModelSpec | None:
        """Return what `spec` will be, if that is known before any data are read; else None."""
        return None

    def describe_data(self) -> str:
        """Describe the prepared data in a line: how large, vocabulary or classes, splits."""
        spec = self.spec
        kinds = f"vocabulary of {spec.vocab_size:,}, " if spec.vocab_size else ""
        if spec.classes:
            kinds = f"{spec.classes:,} classes, "
        return f"{self.name}, {kinds}sequences of {spec.seq_len:,} steps"

    @property
    def batches_per_epoch(self) -> float | None:
        """Training batches that show as much as the training split holds: one epoch.

        None where examples are drawn without end.
        """
        return None

    def fingerprint(self) -> dict[str, str]:
        """Identify the prepared data, for the record of the run.

        The entry `sha256` is the identity: a run resumes only on data with the same one. Any other
        entry (path, version) tells the reader where the data came from and may differ.
        """
        return {}

    def assets(self) -> dict[str, str]:
        """Text files (name -> content) that a run folder must hold to use its model without the
        data, such as a vocabulary."""
        return {}

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Every metric of `model` on the whole of `split`, keyed `<split>/<metric>`.

        Without gradients and in evaluation mode; every submodule's mode is restored afterwards.

        Raises:
            UserError: the task has no such split.
        """
        self._check_split(split)
        with evaluating(model):
            return self.measure(model, split)

    def evaluate_detailed(
        self, model: nn.Module, split: str
    ) -> tuple[dict[str, float], list[Table]]:
        """Evaluate, with what does not fit into a number (a confusion matrix, a curve).

        A split called `test` is evaluated once, with the best weights, when training has ended.

        Raises:
            UserError: the task has no such split.
        """
        self._check_split(split)
        with evaluating(model):
            return current(self, "measure_detailed", "measure_in_detail")(model, split)

    def measure_detailed(
        self, model: nn.Module, split: str
    ) -> tuple[dict[str, float], list[Table]]:
        """Measure as `measure` does, and make tables; override it if the task has any."""
        return self.measure(model, split), []

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise UserError(
                f"task {self.name} has no split {split!r}; it has: {', '.join(self.splits)}"
            )


_MEASURES = {"measure", "measure_detailed", "measure_in_detail", "evaluate", "evaluate_detailed"}


def check_share(rows: int, size: int) -> None:
    """Raise UserError if a batch of `rows` cannot be shared out equally among `size` processes."""
    if rows % size:
        raise UserError(
            f"task.batch_size={rows}: {size} processes cannot share it equally; give a multiple of "
            f"{size}"
        )


_OLD_METHODS = {
    "each": "eval_batches",
    "examine": "evaluate_detailed",
    "measure_in_detail": "measure_detailed",
}
_OLD_ATTRIBUTES = {"watch": "on_eval_batch"}
keep_old_names(Task, Task, _OLD_METHODS, _OLD_ATTRIBUTES)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; each submodule's own mode afterwards.

    `no_grad` rather than `inference_mode`: tensors that a model caches here (rotary tables, say)
    must stay usable in the next training step.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
