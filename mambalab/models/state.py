"""States: what a model carries from one piece of a sequence to the next."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class MambaState:
    """Recurrent state of one Mamba layer; its size does not depend on sequence length.

    Attributes:
        conv: (b, d_inner, d_conv - 1) last inputs of the causal convolution.
        ssm: (b, d_inner, d_state) float32 hidden state of the scan.
    """

    conv: Tensor
    ssm: Tensor

    def put(self, row: int, other: "MambaState", source: int) -> None:
        """Replace the state of sequence `row` by that of `source` in another batch."""
        self.conv[row] = other.conv[source]
        self.ssm[row] = other.ssm[source]

    def rewind(self, row: int, length: int) -> None:
        """Do nothing: the size is fixed."""


@dataclass
class AttentionState:
    """Key-value cache of one attention layer, in memory reserved ahead.

    Attributes:
        key, value: (b, n_head, max_len, head_dim).
        filled: positions of each sequence that are filled.
    """

    key: Tensor
    value: Tensor
    filled: list[int]

    def positions(self) -> int | Tensor:
        """Position of the next token: a number if all sequences have the same, else one for each.

        In the second case (b, 1, 1, 1, 1) int64.
        """
        if len(set(self.filled)) == 1:
            return self.filled[0]
        return torch.tensor(self.filled, device=self.key.device).view(-1, 1, 1, 1, 1)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store new keys and values (b, n_head, l, head_dim); return all that are filled.

        Sequences of unequal length go on by one token at a time (l = 1).

        Returns:
            Filled keys and values (b, n_head, longest, head_dim), and a mask (b, 1, 1, longest),
            True where a sequence has any; None if all are equally long.

        Raises:
            ValueError: more positions than the cache has.
        """
        length = key.shape[2]
        stop = max(self.filled) + length
        if stop > self.key.shape[2]:
            raise ValueError(f"the key-value cache holds {self.key.shape[2]} positions, not {stop}")
        start, mask = self.positions(), None
        if isinstance(start, int):
            self.key[:, :, start:stop] = key
            self.value[:, :, start:stop] = value
        else:
            assert length == 1, "sequences of unequal length go on by one token at a time"
            rows = torch.arange(len(key), device=key.device)
            at = start.flatten()
            self.key[rows, :, at] = key[:, :, 0].to(self.key.dtype)
            self.value[rows, :, at] = value[:, :, 0].to(self.value.dtype)
            mask = (torch.arange(stop, device=key.device) <= at[:, None])[:, None, None]
        self.filled = [filled + length for filled in self.filled]
        return self.key[:, :, :stop], self.value[:, :, :stop], mask

    def put(self, row: int, other: "AttentionState", source: int) -> None:
        """Replace the state of sequence `row` by that of `source` in another batch."""
        filled = other.filled[source]
        self.key[row, :, :filled] = other.key[source, :, :filled]
        self.value[row, :, :filled] = other.value[source, :, :filled]
        self.filled[row] = filled

    def rewind(self, row: int, length: int) -> None:
        """Drop what sequence `row` has beyond its first `length` positions."""
        self.filled[row] = min(self.filled[row], length)


LayerState = MambaState | AttentionState


@dataclass
class ModelState:
    """State of a model: one state a layer, in order; updated in place by the forward pass."""

    layers: list[LayerState]

    def put(self, row: int, other: "ModelState", source: int = 0) -> None:
        """Replace the state of sequence `row` by that of `source` in another batch."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.put(row, theirs, source)  # pyright: ignore[reportArgumentType]

    def rewind(self, row: int, length: int) -> None:
        """Drop what sequence `row` has beyond its first `length` positions, in every cache."""
        for layer in self.layers:
            layer.rewind(row, length)

    def bytes(self) -> int:
        """Memory of all states, in bytes."""
        tensors = [t for layer in self.layers for t in vars(layer).values()]
        return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
