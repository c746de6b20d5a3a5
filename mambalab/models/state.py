"""States: what a model carries from one piece of a sequence to the next.

A forward pass updates the state it is given. Without gradients that happens in place, in memory
that stays where it is. While gradients are recorded the state gets new tensors instead, since the
backward needs the old ones: gradients then flow from piece to piece, and `detach` stops them.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mambalab.ops.dispatch import transforming


def _locked(state: Tensor) -> bool:
    """True if a state cannot be written in place: a graph needs it, or it is another mode's.

    A tensor made in inference mode can be written in inference mode only.
    """
    return state.requires_grad or transforming() or _foreign(state)


def _foreign(state: Tensor) -> bool:
    """True for a tensor from inference mode, outside of it; torch.compile cannot ask."""
    if torch.compiler.is_compiling():
        return False
    return state.is_inference() and not torch.is_inference_mode_enabled()


def readable(state: Tensor) -> Tensor:
    """The state itself, or a copy that autograd can save if it comes from inference mode."""
    return state.clone() if _foreign(state) else state


def updated(old: Tensor, new: Tensor) -> Tensor:
    """Put a new value in a state's place, without gradients in its memory; in its dtype."""
    if torch.is_grad_enabled() or _locked(old):
        return new.to(old.dtype)
    return old.copy_(new)


def _backward_pass() -> int:
    """Number of the backward pass that runs now; -1 outside of any."""
    if torch.compiler.is_compiling():
        return -1
    autograd: Any = torch._C
    return autograd._current_graph_task_id()


def check_once(state: "MambaState | AttentionState | ModelState") -> None:
    """Raise if a layer that activation checkpointing runs again would go on from its own result.

    Within a backward pass a layer runs for the second time: a state from outside of it has been
    updated by the first. A state that is made within is as it was.

    Raises:
        RuntimeError: the state is older than the backward pass that runs now.
    """
    now = _backward_pass()
    if now not in (-1, state.made_in):
        raise RuntimeError(
            "activation checkpointing runs a layer again whose state has gone on since: let the "
            "checkpointed function make the state from tensors and return its tensors"
        )


@dataclass
class MambaState:
    """Recurrent state of one Mamba layer; its size does not depend on sequence length.

    Attributes:
        conv: (b, d_inner, d_conv - 1) last inputs of the causal convolution.
        ssm: (b, d_inner, d_state) hidden state of the scan; float32, float64 in such a layer.
        made_in: the backward pass in which it was made, -1 outside of any.
    """

    conv: Tensor
    ssm: Tensor
    made_in: int = field(default_factory=_backward_pass, init=False, repr=False, compare=False)

    def detach(self) -> "MambaState":
        """Copy the state out of the graph: gradients do not flow through the copy."""
        return MambaState(self.conv.detach().clone(), self.ssm.detach().clone())

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
        made_in: the backward pass in which it was made, -1 outside of any.
    """

    key: Tensor
    value: Tensor
    filled: list[int]
    made_in: int = field(default_factory=_backward_pass, init=False, repr=False, compare=False)

    def detach(self) -> "AttentionState":
        """Copy the cache out of the graph: gradients do not flow through the copy."""
        key, value = self.key.detach().clone(), self.value.detach().clone()
        return AttentionState(key, value, list(self.filled))

    def positions(self) -> int | Tensor:
        """Position of the next token: a number if all sequences have the same, else one for each.

        In the second case (b, 1, 1, 1, 1) int64.
        """
        if len(set(self.filled)) <= 1:
            return self.filled[0] if self.filled else 0
        return torch.tensor(self.filled, device=self.key.device).view(-1, 1, 1, 1, 1)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store new keys and values (b, n_head, l, head_dim); return all that are filled.

        Sequences of unequal length go on by one token at a time (l = 1). While gradients of the
        keys are recorded, the cache is copied first: the backward of earlier pieces needs it.

        Returns:
            Filled keys and values (b, n_head, longest, head_dim), and a mask (b, 1, 1, longest),
            True where a sequence has any; None if all are equally long.

        Raises:
            ValueError: more positions than the cache has.
        """
        length = key.shape[2]
        # torch 2.11 compiles no max(..., default=0).
        stop = (max(self.filled) if self.filled else 0) + length
        if stop > self.key.shape[2]:
            raise ValueError(f"the key-value cache holds {self.key.shape[2]} positions, not {stop}")
        start, mask = self.positions(), None
        if key.requires_grad or _locked(self.key):
            self.key, self.value = self.key.clone(), self.value.clone()
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


@dataclass
class EmptyState:
    """State of a layer that looks at one position at a time: nothing."""

    def detach(self) -> "EmptyState":
        """Return the same nothing."""
        return self

    def put(self, row: int, other: "EmptyState", source: int) -> None:
        """Do nothing."""

    def rewind(self, row: int, length: int) -> None:
        """Do nothing."""


LayerState = MambaState | AttentionState | EmptyState


@dataclass
class ModelState:
    """State of a model, updated by the forward pass.

    Attributes:
        layers: one state a layer, in order.
        read: steps that each sequence has read, (b,) numbers; None in a model without learned
            positions, which need not know.
        places: (b,) int64, what stands for `read` in a step that is recorded: memory that stays
            where it is, on the model's device, filled before the step is repeated.
        made_in: the backward pass in which it was made, -1 outside of any.
    """

    layers: list[LayerState]
    read: list[int] | None = None
    places: Tensor | None = None
    made_in: int = field(default_factory=_backward_pass, init=False, repr=False, compare=False)

    def detach(self) -> "ModelState":
        """Copy the state out of the graph: what comes after does not train what came before.

        Between two pieces of a sequence it makes truncated back-propagation through time.
        """
        read = None if self.read is None else list(self.read)
        return ModelState([layer.detach() for layer in self.layers], read)

    def put(self, row: int, other: "ModelState", source: int = 0) -> None:
        """Replace the state of sequence `row` by that of `source` in another batch."""
        if self.read is not None:  # first: a state that does not count changes nothing
            self.read[row] = other.counts()[source]
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.put(row, theirs, source)  # pyright: ignore[reportArgumentType]

    def counts(self) -> list[int]:
        """Steps that each sequence has read; raises ValueError if the state does not say."""
        if self.read is None:
            raise ValueError(
                "the state does not say how much was read, which a model with learned positions "
                "needs: make it with initial_state, or as ModelState(layers, read)"
            )
        return self.read

    def advance(self, length: int) -> None:
        """Count `length` more steps of every sequence as read."""
        if self.read is not None:
            self.read = [read + length for read in self.read]

    def rewind(self, row: int, length: int) -> None:
        """Drop what sequence `row` has beyond its first `length` positions, in every cache."""
        for layer in self.layers:
            layer.rewind(row, length)
        if self.read is not None:
            self.read[row] = min(self.read[row], length)

    def bytes(self) -> int:
        """Memory of all states, in bytes."""
        tensors = [t for layer in self.layers for t in vars(layer).values()]
        return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
