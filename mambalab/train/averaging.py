"""Keeps an exponential moving average of a model's weights (`trainer.ema`)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of all parameters, in float32 on their device (float64 for float64).

    After step t, from 1, each moves 1 - d of the way to its parameter, where
    d = min(decay, (1 + t) / (10 + t)): the first steps, whose weights are still random, are soon
    forgotten (the warm-up of TensorFlow's `tf.train.ExponentialMovingAverage` with `num_updates`).
    Buffers have no average.

    Args:
        model: as it begins.
        decay: share that stays of the average in a step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._named = dict(model.named_parameters())  # shared ones once
        self._average = {name: _wide(p.detach()).clone() for name, p in self._named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [_wide(p) for p in self._named.values()]
        averages = list(self._average.values())
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the average as its weights inside the block, bit for bit its own
        afterwards, also when the block raises."""
        own = {name: p.detach().clone() for name, p in self._named.items()}
        try:
            self._fill(self._average)
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._named.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by the names of their parameters."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go back to the moment of `state_dict`.

        Raises:
            KeyError, ValueError: it is that of another model, or none.
        """
        if state.keys() != self._average.keys():
            raise ValueError("the average is of other parameters")
        for name, average in self._average.items():
            if state[name].shape != average.shape:
                raise ValueError(f"the average of {name} has another shape")
            average.copy_(state[name])


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
