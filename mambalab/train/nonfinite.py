"""Stops a run whose numbers are no longer numbers, and says where they went wrong."""

import torch
from torch import Tensor, nn

from mambalab.errors import UserError


class NonFiniteError(UserError):
    """Loss or gradients became infinite or NaN; weights up to then are unharmed."""


class FiniteGuard:
    """Watches loss and gradient norm without waiting for the device at every step.

    A bad step is never applied (`found_inf` makes the optimiser skip it) and is remembered on the
    device until `first_bad_step` asks for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def watch(self, step: int, loss: Tensor, norm: Tensor) -> Tensor:
        """Returns `found_inf` for this step: a scalar float32, 1.0 if the step is bad."""
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
        fresh = bad & (self.first_bad < 0)
        self.first_bad = torch.where(fresh, torch.full_like(self.first_bad, step), self.first_bad)
        return bad.float()

    def first_bad_step(self) -> int | None:
        """The first step that was bad, or None; waits for the device."""
        step = int(self.first_bad)
        return step if step >= 0 else None


def first_bad_layer(model: nn.Module, compute_loss) -> str:
    """Replay a step and name the first module, or gradient, that is not finite.

    Args:
        model: its gradients are overwritten.
        compute_loss: runs the forward pass of the bad batch and returns the loss.
    """
    culprits: list[str] = []

    def hook(name: str):
        def check(_module: nn.Module, _inputs: object, output: object) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if any(isinstance(t, Tensor) and not torch.isfinite(t).all() for t in tensors):
                culprits.append(name)

        return check

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if n]
    try:
        model.zero_grad(set_to_none=True)
        loss = compute_loss()
        if culprits:
            return f"first in the output of {culprits[0]}"
        if not torch.isfinite(loss):
            return "in the loss itself; every layer's output is finite"
        loss.backward()
        for name, parameter in reversed(list(model.named_parameters())):
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f"first in the gradient of {name}"
        return "not repeated when the step was replayed (another dropout mask, or later weights)"
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
