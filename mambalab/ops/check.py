"""Compares a backend with float64 on this machine: what `mambalab doctor` does."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mambalab.ops.causal_conv1d import causal_conv1d
from mambalab.ops.selective_scan import selective_scan


@dataclass(frozen=True)
class Case:
    """A form in which the operators are compiled, and the error that it may have.

    Attributes:
        name: for a person.
        conv: the convolution instead of the scan.
        shape: b, l, d and n (taps of the convolution).
        full: with gate, skip, bias and states in and out; else without any.
        dtype: of the activations.
        allowed: largest difference from float64, as a share of the largest value.
    """

    name: str
    conv: bool
    shape: tuple[int, int, int, int]
    full: bool
    dtype: torch.dtype
    allowed: float


ODD = Case("float32", False, (1, 9, 20, 4), False, torch.float32, 1e-5)
ON_GPU = (
    ODD,
    Case("bfloat16", False, (2, 130, 64, 16), True, torch.bfloat16, 2e-2),
    Case("segments", False, (1, 1100, 64, 16), True, torch.float32, 1e-5),
    Case("convolution", True, (2, 130, 64, 4), True, torch.bfloat16, 2e-2),
)
"""Sizes with and without the alignment that the compiler makes use of; a sequence so long that
every GPU cuts it into segments."""


def cases(device: torch.device) -> tuple[Case, ...]:
    """Forms that are worth compiling to check a device."""
    return ON_GPU if device.type == "cuda" else (ODD,)


def compare(backend: str, device: torch.device, case: Case) -> float:
    """Return the largest error of outputs and gradients, as a share of the largest value."""
    inputs = _inputs(case)
    run = _conv if case.conv else _scan
    exact = _results(partial(run, backend="reference"), [x.double() for x in inputs])
    fast = _results(partial(run, backend=backend), [x.to(device) for x in inputs])
    errors = (
        float((x.double().cpu() - y).abs().max() / y.abs().max())
        for x, y in zip(fast, exact, strict=True)
    )
    return max(errors, key=lambda error: float("inf") if error != error else error)


def _inputs(case: Case) -> list[Tensor]:
    """Random arguments in the operator's order, the optional ones last."""
    make = torch.Generator().manual_seed(0)
    batch, length, d_inner, last = case.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make)

    x = normal(batch, length, d_inner).to(case.dtype)
    if case.conv:
        state = normal(batch, d_inner, last - 1).to(case.dtype)
        return [x, normal(d_inner, last), normal(d_inner), state]
    delta, z = normal(2, batch, length, d_inner).to(case.dtype)
    A = -torch.rand(d_inner, last, generator=make)
    B, C = normal(2, batch, length, last).to(case.dtype)
    optional = [normal(d_inner), z, normal(d_inner), normal(batch, d_inner, last)]
    return [x, delta, A, B, C, *(optional if case.full else [])]


def _scan(*tensors: Tensor, backend: str) -> list[Tensor]:
    u, delta, A, B, C, *rest = tensors
    D, z, bias, state = rest if rest else [None] * 4
    return list(
        selective_scan(
            *(u, delta, A, B, C, D, z, bias),
            delta_softplus=True,
            initial_state=state,
            return_final_state=True,
            backend=backend,
        )
    )


def _conv(*tensors: Tensor, backend: str) -> list[Tensor]:
    x, weight, bias, state = tensors
    return [causal_conv1d(x, weight, bias, "silu", state, backend=backend)]  # pyright: ignore[reportReturnType]


def _results(function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of the sum of their elements."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    total = torch.stack([x.float().sum() if x.dtype != torch.float64 else x.sum() for x in outputs])
    return [*(x.detach() for x in outputs), *torch.autograd.grad(total.sum(), leaves)]
