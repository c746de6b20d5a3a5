"""Measures norms of gradients, weights and updates of each layer (`trainer.norms`)."""

import torch
from torch import Tensor, nn

PREFIX = "norms"  # of the metrics: norms/grad/LAYER, norms/weight/LAYER, norms/update_ratio/LAYER


def layer_of(name: str) -> str:
    """Name the layer of a parameter: its path up to the first number, else without its last part.

    `backbone.layers.3.mixer.D` is in `backbone.layers.3`, `lm_head.weight` in `lm_head`.
    """
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1]) or name


class StepNorms:
    """Norms of one optimiser step, layer by layer; reads, and changes nothing.

    Make it after `backward`, before gradients are clipped and the optimiser steps.

    Args:
        model: with its gradients, unscaled.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        self._layers: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._layers.setdefault(layer_of(name), []).append(parameter)
        self._before = {n: [p.detach().clone() for p in ps] for n, ps in self._layers.items()}
        self._grads = {
            n: _norm([p.grad for p in ps if p.grad is not None]) for n, ps in self._layers.items()
        }

    @torch.no_grad()
    def after_step(self) -> dict[str, float]:
        """Measure, after the optimiser's step; waits for the device.

        Returns:
            By layer, the norm of its gradient before clipping, that of its weights before the
            step, and the norm of the change divided by that of the weights (NaN if they are 0).
        """
        names = list(self._layers)
        rows = []
        for name in names:
            before = self._before[name]
            change = [p.detach() - b for p, b in zip(self._layers[name], before, strict=True)]
            weight = _norm(before)
            rows += [self._grads[name], weight, _norm(change) / weight]
        if not rows:
            return {}
        numbers = torch.stack([row.float().to(rows[0].device) for row in rows]).view(-1, 3).tolist()
        kinds = ("grad", "weight", "update_ratio")
        return {
            f"{PREFIX}/{kind}/{name}": row[place]
            for place, kind in enumerate(kinds)
            for name, row in zip(names, numbers, strict=True)
        }


def _norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of all entries of several tensors, a scalar."""
    wide = [t if t.dtype == torch.float64 else t.float() for t in tensors]
    return nn.utils.get_total_norm(wide) if wide else torch.zeros(())
