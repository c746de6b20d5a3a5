"""Writes the checkpoints of a run while it trains, and goes back to one.

What a checkpoint is on the disk is in train/checkpoint.py; what the loop's own state is, in
train/state.py.
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.records.summary import Evaluation
from mambalab.settings.train import TrainerSettings
from mambalab.train import checkpoint
from mambalab.train.averaging import WeightAverage
from mambalab.train.checks import describe_changes
from mambalab.train.protocols import MetricRecorder, TrainableTask
from mambalab.train.state import TrainState
from mambalab.train.together import Together, on_cpu

LOG = logging.getLogger("mambalab")
ALL = "all"  # trainer.keep


class Stateful(Protocol):
    """A part of training with a state of its own: tensors and plain values."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Go back to the moment of `state_dict`."""
        ...


class Keeper:
    """Keeps a run's `last`, `best` and `step` checkpoints.

    Args:
        run_dir: they go below it.
        model: whose weights they are.
        task: whose data the run is bound to.
        state: of the loop.
        settings: how many stay, and of which steps.
        recorder: what it was given is on the disk before a checkpoint is.
        together: the processes that train; the first writes.
        average: of the weights, if they have one: what `best` and `step` checkpoints hold.
        parts: further state by name, for `last` checkpoints; what is absent has none.
        run: identities of the run by name; a checkpoint that holds others is refused.
        facts: more that its checkpoints say of the run, JSON-able.

    Attributes:
        saved_step: step of the newest `last` checkpoint; -1 without one.
        restored: facts of the checkpoint that `restore` went back to; empty without one.
    """

    def __init__(
        self,
        run_dir: Path,
        model: nn.Module,
        task: TrainableTask,
        state: TrainState,
        settings: TrainerSettings,
        recorder: MetricRecorder,
        *,
        together: Together,
        average: WeightAverage | None,
        parts: Mapping[str, Stateful | None],
        run: Mapping[str, str] | None,
        facts: Mapping[str, Any],
    ) -> None:
        self.run_dir = run_dir
        self.model = model
        self.task = task
        self.state = state
        self.settings = settings
        self.recorder = recorder
        self.together = together
        self.average = average
        held = {"average": average, **parts}
        self.parts = {name: part for name, part in held.items() if part is not None}
        self.run_identity = dict(run or {})
        self.facts = dict(facts)
        if run:
            self.facts["run"] = self.run_identity
        if average is not None:
            self.facts["ema"] = average.decay
        self.saved_step = -1
        self.restored: dict[str, Any] = {}

    def judged_weights(self) -> AbstractContextManager[None]:
        """Let the model have, inside the block, the weights that the run is judged by."""
        return nullcontext() if self.average is None else self.average.applied()

    def save_best(self, metrics: dict[str, float]) -> None:
        """Keep the model's weights as the best, in place of those before."""
        if not self.together.ranks.is_first:
            return
        facts = {**self.facts, "metrics": metrics, "metric": self.task.metric}
        step, weights = self.state.step, self.model.state_dict()
        checkpoint.save(self.run_dir, "best", step, weights, facts=facts)

    def save_last(self) -> None:
        """Write everything needed to go on exactly from here, unless that is done.

        The curve reaches the disk first: after a power cut no checkpoint is ahead of it.
        """
        if self.saved_step == self.state.step:
            return
        with self.together.whole():
            optimizer = self.together.optimizer_state(self.state.optimizer)
            if self.together.ranks.is_first:
                self._save_last(optimizer)
        self.saved_step = self.state.step

    def _save_last(self, optimizer: dict[str, Any]) -> None:
        facts = {**self.facts, "fingerprint": self.task.fingerprint()}
        if (history := self.recorder.flush()) is not None:
            facts["history"] = history
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        checkpoint.save(
            self.run_dir,
            "last",
            self.state.step,
            self.model.state_dict(),
            facts=facts,
            trainer={**self.state.state_dict(), "optimizer": optimizer, **parts},
            keep=self.settings.keep_last or 1,
        )
        self._keep_step()

    def begin_together(self) -> None:
        """Give the other processes what `restore` gave the first.

        Raises:
            UserError: this process has other data than the first.
        """
        ranks = self.together.ranks
        if ranks.size > 1:
            ours = self.task.fingerprint().get("sha256")
            first = ranks.tell(ours)
            if ours != first:
                raise UserError(
                    f"process {ranks.rank} has other data than process 0 (sha256 {ours}, not "
                    f"{first}): bring the same to each machine"
                )
            parts = {name: on_cpu(part.state_dict()) for name, part in self.parts.items()}
            self.saved_step, parts = ranks.tell((self.saved_step, parts))
            for name, part in self.parts.items():
                part.load_state_dict(parts[name])

    def make_up(self) -> None:
        """Keep the weights of a step whose session was killed before it could, when going on."""
        if self.saved_step != self.state.step:
            return
        with self.together.whole():
            kept = {found.step for found in checkpoint.find_all(self.run_dir, "step")}
            if self.together.ranks.is_first and self.state.step not in kept:
                self._keep_step()

    def _keep_step(self) -> None:
        """Keep the weights of this step if `trainer.keep` wants that.

        After the `last` checkpoint: what resuming needs comes first on a disk that is nearly full.
        """
        keep, step = self.settings.keep, self.state.step
        if keep == "best" or not step or step % self.settings.checkpoint_every:
            return
        with self.judged_weights():
            checkpoint.save(
                self.run_dir,
                "step",
                step,
                self.model.state_dict(),
                facts=self.facts,
                keep=step if keep == ALL else int(keep),
            )

    def restore(self, source: checkpoint.Checkpoint) -> None:
        """Go back to where a checkpoint was written.

        Raises:
            DamagedError: it is damaged: the one before it may do.
            UserError: it cannot be read, belongs to another run, or was written on other data or
                by another model.
        """
        weights, facts, trainer = checkpoint.load(source, self.state.device)
        checkpoint.refuse_foreign(source, facts, self.run_identity)
        ours, theirs = self.task.fingerprint(), facts.get("fingerprint")
        if not isinstance(theirs, dict):
            raise checkpoint.lacks_state(source)
        if ours.get("sha256") != theirs.get("sha256"):
            raise UserError(
                f"the data changed since {source.path} was written"
                f"{describe_changes(theirs, ours)}: bring the old data back, "
                f"give a new run_dir, or start again with resume=never"
            )
        checkpoint.restore_weights(self.model, weights, source.path)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(trainer[name])
            self.state.load_state_dict(trainer, step=source.step)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise checkpoint.lacks_state(source) from error
        self.saved_step = source.step
        self.restored = facts
        self._adopt_newer_best()

    def _adopt_newer_best(self) -> None:
        """Adopt a best checkpoint that was written after the restored one, before a kill."""
        found = checkpoint.find(self.run_dir, "best")
        if found is None or (self.state.best and found.step <= self.state.best.step):
            return
        try:
            _, facts, _ = checkpoint.load(found, torch.device("cpu"))
        except checkpoint.DamagedError as error:
            LOG.warning("%s", error)  # the evaluation comes again, and so does the checkpoint
            return
        checkpoint.refuse_foreign(found, facts, self.run_identity)
        self.state.best = Evaluation(found.step, facts["metrics"])
        self.state.evaluations_since_best = 0  # those before it count no more when they come again
