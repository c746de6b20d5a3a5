"""What a model carries from one piece of a sequence to the next."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class MambaState:
    """Of a Mamba layer: a fixed size, however long the sequence.

    Attributes:
        conv: (B, d_inner, d_conv - 1) last inputs of the causal convolution.
        ssm: (B, d_inner, d_state) float32 hidden state of the scan.
    """

    conv: Tensor
    ssm: Tensor


@dataclass
class AttentionState:
    """Of an attention layer: keys and values of everything seen, in memory reserved ahead.

    Attributes:
        key, value: (B, n_head, max_len, head_dim).
        length: positions filled so far.
    """

    key: Tensor
    value: Tensor
    length: int = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, n_head, L, head_dim) new keys and values; return all filled ones."""
        stop = self.length + key.shape[2]
        if stop > self.key.shape[2]:
            raise ValueError(f"the key-value cache holds {self.key.shape[2]} positions, not {stop}")
        self.key[:, :, self.length : stop] = key
        self.value[:, :, self.length : stop] = value
        self.length = stop
        return self.key[:, :, :stop], self.value[:, :, :stop]


LayerState = MambaState | AttentionState


@dataclass
class ModelState:
    """Of a whole model: one state a layer, in order; updated in place by the forward pass."""

    layers: list[LayerState]

    def bytes(self) -> int:
        """Memory held, in bytes."""
        tensors = [t for layer in self.layers for t in vars(layer).values()]
        return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
