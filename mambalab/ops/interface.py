"""What a backend provides: a module for the scan and one for the convolution, with these functions.

`selective_scan` and `causal_conv1d` check shapes, settle dtypes and choose the backend; they call
its functions with autocast off and never with an empty tensor. Shapes: u, delta, z, x (b, l, d);
A (d, n); B, C (b, l, n) or (b, l, g, n); D, delta_bias (d,); state of the scan (b, d, n); weight
(d, k), bias (d,), state of the convolution (b, d, k - 1). Any strides.

Activations (u, delta, B, C, z, x) share one dtype. Everything else has the compute dtype, float32
(float64 where activations are), and so has all arithmetic. Results must repeat to the last bit
with the same inputs on the same device: no atomics, no sums whose order depends on timing.
"""

from typing import NamedTuple, Protocol

from torch import Tensor


class ScanGradients(NamedTuple):
    """Gradients of the tensors of a selective scan; None for those not given or not wanted."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None


class ConvGradients(NamedTuple):
    """Gradients of the tensors of a causal convolution; None for those that were not given."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    initial_state: Tensor | None


class ScanImplementation(Protocol):
    """A module that computes the selective scan (arXiv 2312.00752, Algorithm 2)."""

    def states_shape(
        self, batch: int, length: int, d_inner: int, d_state: int, groups: int = 1
    ) -> tuple[int, ...]:
        """Shape of the states that `forward` saves for `backward`; torch.compile asks for it."""
        ...

    def forward(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        initial_state: Tensor | None,
        delta_softplus: bool,
        save_states: bool,
        with_final: bool = True,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return y (b, l, d) in u's dtype, the last state (b, d, n), and the saved states.

        The last state is None unless `with_final`. The saved states have the shape of
        `states_shape`; None without `save_states`.
        """
        ...

    def backward(
        self,
        grad_y: Tensor,
        grad_state: Tensor | None,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
        saved_states: Tensor,
        with_initial: bool = True,
    ) -> ScanGradients:
        """Return the gradients, given those of y (b, l, d) and of the last state (b, d, n).

        Gradients of u, delta, B, C and z have the dtype of their tensor, the others the compute
        dtype. `grad_state` is None where the last state was not used; the gradient of the initial
        state is None unless `with_initial`.
        """
        ...


class ConvImplementation(Protocol):
    """A module that computes the depthwise causal convolution."""

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        initial_state: Tensor | None,
        silu: bool,
    ) -> Tensor:
        """Return y (b, l, d) in x's dtype; `initial_state` has x's dtype."""
        ...

    def backward(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        initial_state: Tensor | None,
        silu: bool,
    ) -> ConvGradients:
        """Return the gradients, each in the dtype of its tensor, given that of y (b, l, d)."""
        ...
