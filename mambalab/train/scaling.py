"""Scales the loss of fp16 training, whose small gradients would be 0 otherwise."""

import logging
from typing import Any

import torch
from torch import Tensor

LOG = logging.getLogger("mambalab")
# From the first scale, 65,536, so many skipped steps lead to 0.00006: what overflows then is no
# matter of scale.
MAX_SKIPPED_IN_A_ROW = 30


class LossScaler:
    """Multiplies the loss by a scale that follows the gradients (`torch.amp.GradScaler`).

    A step whose gradients overflow is skipped and halves the scale; 2,000 good ones double it.
    Nothing waits for the device but what says so.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type)
        self._skipped, self._row, self._longest = (
            torch.zeros((), dtype=torch.int64, device=device) for _ in range(3)
        )
        self._told = 0

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss from which `backward` may start."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale, once a step, before anything looks at them."""
        self._scaler.unscale_(optimizer)

    def update(self, bad: Tensor) -> None:
        """Follow a step; `bad`, a scalar, is 1 if the optimiser skipped it."""
        self._scaler.update()
        skipped = bad.to(torch.int64)
        self._skipped += skipped
        self._row = (self._row + skipped) * skipped
        self._longest = torch.maximum(self._longest, self._row)

    def values(self, step: int) -> dict[str, float]:
        """Return what is recorded; says so if steps were skipped. Waits for the device."""
        skipped, scale = int(self._skipped), float(self._scaler.get_scale())
        if skipped > self._told:
            new = skipped - self._told
            LOG.info(
                "fp16: %s skipped before step %s, gradients overflowed; the loss scale is %g now",
                f"{new} step was" if new == 1 else f"{new} steps were",
                f"{step:,}",
                scale,
            )
        self._told = skipped
        return {"train/loss_scale": scale, "train/skipped_steps": float(skipped)}

    def skipped(self) -> int:
        """Count the steps that were skipped; waits for the device."""
        return int(self._skipped)

    def is_lost(self) -> bool:
        """Whether so many steps in a row were skipped that no scale helps; waits for the device."""
        return int(self._longest) >= MAX_SKIPPED_IN_A_ROW

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        counts = {"skipped": self._skipped, "row": self._row, "longest": self._longest}
        return {
            "scaler": self._scaler.state_dict(),
            "told": self._told,
            **{name: int(value) for name, value in counts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to the moment of `state_dict`; raises LookupError or TypeError for another's."""
        self._scaler.load_state_dict(state["scaler"])
        self._told = state["told"]
        self._skipped.fill_(state["skipped"])
        self._row.fill_(state["row"])
        self._longest.fill_(state["longest"])
