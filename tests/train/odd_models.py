"""Models that several processes may get wrong: weights used twice, or not at all, and the like."""

from collections.abc import Callable

import torch
from torch import nn


class Layers(nn.Module):
    """Calls layers one after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return x


class Sum(nn.Module):
    """A layer with layers of its own; the weight is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.weight = nn.Parameter(torch.randn(4, 4).t())

    def forward(self, x):
        return sum((expert(x).tanh() for expert in self.experts), x @ self.weight)


class Groups(nn.Module):
    """Lists of layers in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.ModuleList([nn.ModuleList([nn.Linear(4, 3)]), nn.ModuleList()])
        self.groups.append(nn.ModuleList([nn.GELU(), nn.Linear(3, 1)]))

    def forward(self, x):
        for group in self.groups:
            assert isinstance(group, nn.ModuleList)
            for layer in group:
                x = layer(x)
        return x


class Idle(Layers):
    """Has a head that nothing uses, and in every second batch leaves a layer out."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
        self.head = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        first, second, last = self.layers
        x = first(x).tanh()
        return last(second(x) if self.training and self.calls % 2 else x)


def twice() -> nn.Module:
    """One layer at two places."""
    layer = nn.Linear(4, 4)
    return Layers(layer, layer, nn.Linear(4, 1))


def tied() -> nn.Module:
    """Two layers with one weight, and frozen ones."""
    first, second, last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    return Layers(first, second, nn.Linear(4, 4).requires_grad_(False), last)


def nested() -> nn.Module:
    """Layers in layers."""
    return Layers(Sum(), Sum(), nn.Linear(4, 1))


def normed() -> nn.Module:
    """Running statistics, which differ from process to process."""
    return Layers(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))


SAME: dict[str, Callable[[], nn.Module]] = {
    "twice": twice, "tied": tied, "nested": nested, "groups": Groups,
}  # fmt: skip
"""Those that train alike by whatever strategy; `Idle` does with DDP."""
