import functools

import pytest
import torch

from mambalab.ops import causal_conv1d
from mambalab.ops.reference import causal_conv1d_reference


def tensors(batch, length, d_inner, width, dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    shapes = {
        "x": (batch, length, d_inner),
        "weight": (d_inner, width),
        "bias": (d_inner,),
        "initial_state": (batch, d_inner, width - 1),
    }
    case = {k: torch.randn(shape, generator=make) for k, shape in shapes.items()}
    return {k: x.to(dtype) if k in ("x", "initial_state") else x for k, x in case.items()}


def results(function, case):
    leaves = {k: x.detach().requires_grad_() for k, x in case.items()}
    y = function(**leaves)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), weight)]


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    ("batch", "length", "d_inner", "width", "without"),
    [
        (2, 35, 70, 4, ()),
        (1, 1, 5, 4, ()),
        (1, 2, 9, 4, ("bias",)),
        (2, 17, 3, 1, ("initial_state",)),
        (1, 40, 64, 3, ("bias", "initial_state")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_the_oracle(batch, length, d_inner, width, without, activation, dtype):
    case = tensors(batch, length, d_inner, width, dtype)
    case = {k: x for k, x in case.items() if k not in without}
    fast = functools.partial(causal_conv1d, activation=activation, backend="triton")

    def oracle(x, weight, bias=None, initial_state=None):
        return causal_conv1d_reference(x, weight, bias, activation, initial_state)[0]

    expected = results(oracle, {k: x.double() for k, x in case.items()})
    tolerance = 3e-6 if dtype == torch.float32 else 1.5e-2
    for actual, exact in zip(results(fast, case), expected, strict=True):
        assert actual.isfinite().all()
        scale = max(exact.norm().item(), exact.numel() ** 0.5, 1e-30)
        assert (actual.double() - exact).norm().item() <= tolerance * scale
