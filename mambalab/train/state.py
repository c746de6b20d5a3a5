"""State of the training loop, weights aside, and the form in which a checkpoint keeps it."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mambalab.records.summary import Evaluation
from mambalab.train import runtime

WARM_UP_STEPS = 10  # left out of the reported speed: compilation, caches


@dataclass
class Clock:
    """Training time over all sessions, and the speed of this one.

    Attributes:
        used: seconds of training in earlier sessions.
        started: `time.monotonic()` at which this session began.
        steps: steps of this session.
        step_seconds: time of those after warm-up.
        timed_steps: number of those after warm-up.
    """

    used: float = 0.0
    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    step_seconds: float = 0.0
    timed_steps: int = 0

    def elapsed(self) -> float:
        """Seconds of training, earlier sessions included."""
        return self.used + time.monotonic() - self.started

    def step_took(self, seconds: float, timed: bool = True) -> None:
        """Count one training step; one that is not `timed` was slowed down, and says no speed."""
        self.steps += 1
        if self.steps > WARM_UP_STEPS and timed:
            self.step_seconds += seconds
            self.timed_steps += 1


class BeforeStep:
    """Remembers what the forward and backward passes of a step change, to undo half of one.

    Args:
        model: its buffers may change (running statistics), and it gets gradients.
        device: whose random numbers count.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._random = runtime.random_state(device)
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the moment at which this object was made."""
        self._model.zero_grad(set_to_none=True)
        for buffer, value in self._buffers:
            buffer.copy_(value)
        runtime.restore_random_state(self._random, self._device)


@dataclass
class TrainState:
    """What the next step and the next evaluation depend on, besides the weights and the data.

    Attributes:
        optimizer: with its moments.
        device: where the loss is summed up, and whose random numbers count.
        step: optimiser steps done.
        position: number of the next batch; `grad_accum` batches make a step.
        clock: training time.
        loss_sum: sum of the training losses since the last logged point, a scalar float32 on the
            device.
        loss_count: number of losses in it.
        latest_loss: the last training loss that was logged; NaN before the first.
        best: the best evaluation so far.
        last: metrics of the latest evaluation; empty before the first.
        evaluated_step: step of the latest evaluation; -1 before the first.
        evaluations_since_best: for `trainer.patience`.
    """

    optimizer: torch.optim.Optimizer
    device: torch.device
    step: int = 0
    position: int = 0
    clock: Clock = field(default_factory=Clock)
    loss_sum: Tensor = field(init=False)
    loss_count: int = 0
    latest_loss: float = float("nan")
    best: Evaluation | None = None
    last: dict[str, float] = field(default_factory=dict)
    evaluated_step: int = -1
    evaluations_since_best: int = 0

    def __post_init__(self) -> None:
        self.loss_sum = torch.zeros((), device=self.device)

    def ranking(self) -> tuple[Any, ...]:
        """Return what an evaluation changes, for `restore_ranking`."""
        return self.best, self.last, self.evaluated_step, self.evaluations_since_best

    def restore_ranking(self, before: tuple[Any, ...]) -> None:
        """Forget the evaluations since `ranking` returned `before`."""
        self.best, self.last, self.evaluated_step, self.evaluations_since_best = before

    def state_dict(self) -> dict[str, Any]:
        """Return what trainer.pt of a checkpoint holds.

        Tensors and plain values, loadable with `weights_only=True`. The step is not among them: the
        checkpoint is named by it.
        """
        best = {"step": self.best.step, "metrics": self.best.metrics} if self.best else None
        return {
            "position": self.position,
            "seconds": self.clock.elapsed(),
            "optimizer": self.optimizer.state_dict(),
            "random": runtime.random_state(self.device),
            "loss_sum": float(self.loss_sum),
            "loss_count": self.loss_count,
            "latest_loss": self.latest_loss,
            "best": best,
            "last": self.last,
            "evaluated_step": self.evaluated_step,
            "evaluations_since_best": self.evaluations_since_best,
        }

    def load_state_dict(self, state: dict[str, Any], *, step: int) -> None:
        """Go back to the moment of `state_dict`, the generators of random numbers included.

        Args:
            state: as `state_dict` returned it.
            step: optimiser steps done then.
        """
        _check_types(state)
        self.optimizer.load_state_dict(state["optimizer"])
        runtime.restore_random_state(state["random"], self.device)
        self.step = step
        self.position = state["position"]
        self.clock = Clock(used=state["seconds"])
        self.loss_sum.fill_(state["loss_sum"])
        self.loss_count = state["loss_count"]
        self.latest_loss = state["latest_loss"]
        self.best = Evaluation(**state["best"]) if state["best"] else None
        self.last = state["last"]
        self.evaluated_step = state["evaluated_step"]
        self.evaluations_since_best = state["evaluations_since_best"]


def _check_types(state: Any) -> None:
    """Raise TypeError for what `state_dict` did not return: it would fail steps later."""
    whole = ("position", "loss_count", "evaluated_step", "evaluations_since_best")
    kinds = {**dict.fromkeys(whole, int), "optimizer": dict, "random": dict, "last": dict}
    kinds |= dict.fromkeys(("seconds", "loss_sum", "latest_loss"), (int, float))
    for key, kind in kinds.items():
        if not isinstance(state[key], kind):
            raise TypeError(f"{key} is of type {type(state[key]).__name__}")
    if not 0 <= state["position"] < 2**62:
        raise ValueError(f"position is {state['position']}")
