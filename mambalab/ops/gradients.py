"""What the backward pass of each operator returns, whatever the backend."""

from typing import NamedTuple

from torch import Tensor


class ScanGradients(NamedTuple):
    """Gradients of the tensors of a selective scan; None for those that were not given."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor


class ConvGradients(NamedTuple):
    """Gradients of the tensors of a causal convolution; None for those that were not given."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    initial_state: Tensor | None
