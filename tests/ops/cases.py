"""Random arguments for the operators, and how far apart two results are."""

from collections.abc import Callable

import torch
from torch import Tensor

ACTIVATIONS = ("u", "delta", "B", "C", "z")


def scan_case(
    batch: int = 2,
    length: int = 9,
    d_inner: int = 6,
    d_state: int = 4,
    groups: int | None = None,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """All tensors of a selective scan, float64; B and C without a group axis if groups is None."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make, dtype=torch.float64)

    rows = (batch, length, d_state) if groups is None else (batch, length, groups, d_state)
    return {
        "u": normal(batch, length, d_inner),
        "delta": normal(batch, length, d_inner),
        "A": -torch.rand((d_inner, d_state), generator=make, dtype=torch.float64) * 3 - 0.01,
        "B": normal(*rows),
        "C": normal(*rows),
        "D": normal(d_inner),
        "z": normal(batch, length, d_inner),
        "delta_bias": normal(d_inner) - 1,
        "initial_state": normal(batch, d_inner, d_state),
    }


def cast(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Activations in `dtype`, parameters and state in float32, as in a layer under autocast."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {k: x.to(dtype if k in ACTIVATIONS else wide) for k, x in tensors.items()}


def widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in float64, for the oracle."""
    return {k: x.double() for k, x in tensors.items()}


def results(
    function: Callable[..., tuple[Tensor, Tensor]], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Output, final state and all gradients of a fixed function of both."""
    leaves = {k: x.detach().requires_grad_() for k, x in tensors.items()}
    y, state = function(**leaves)
    make = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=make).bfloat16() for x in (y, state)]  # in any dtype
    outputs = [x for x in (y, state) if x.numel()]
    grads = [w.to(x.dtype) for x, w in zip((y, state), weights, strict=True) if x.numel()]
    found = torch.autograd.grad(outputs, list(leaves.values()), grads, allow_unused=True)
    named = {"y": y, "state": state}
    for (name, leaf), grad in zip(leaves.items(), found, strict=True):
        named[f"grad {name}"] = torch.zeros_like(leaf) if grad is None else grad
    return {k: x.detach() for k, x in named.items()}


def assert_close(
    actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, floor: float = 1.0
) -> None:
    """Each result differs from the expected by at most `tolerance` of the latter's norm.

    The norm is taken as at least `floor` an element: a sum over all steps may cancel to almost
    nothing, and its rounding errors do not.
    """
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        other = actual[name].double()
        assert other.shape == value.shape, name
        assert bool(other.isfinite().all()), f"{name} is not finite"
        error, scale = (other - value).norm().item(), value.norm().item()
        scale = max(scale, floor * value.numel() ** 0.5, 1e-30)
        assert error <= tolerance * scale, f"{name}: off by {error / scale:.1e}"


def identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of results agree bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
