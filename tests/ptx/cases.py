"""Cases of the operators on compiled code: run, compared with float64, and watched."""

import dataclasses

import torch

from mambalab.ops.reference import causal_conv1d_reference, selective_scan_reference
from mambalab.ops.triton import conv, scan, scan_backward, scan_forward, scan_segments, sums
from mambalab.ops.triton.plans import Plan

MODULES = (scan_forward, scan_backward, scan_segments, sums, conv)
UNIT = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Share of a value by which its rounding to the dtype may change it."""


WIDE, NARROW = Plan(32, 2, None), Plan(16, 2, None)


@dataclasses.dataclass(frozen=True)
class Scan:
    """A selective scan; `limit` is that of the partial gradients, in bytes.

    `layout`: 0 contiguous; 1 halves of wider rows; 2 that, beginning at an odd element.
    """

    batch: int = 1
    length: int = 66
    d_inner: int = 32
    d_state: int = 16
    groups: int = 1
    dtype: torch.dtype = torch.bfloat16
    options: str = "D z bias softplus initial final"
    parts: int | None = 1
    limit: int = 64 << 20
    plan: Plan = WIDE
    layout: int = 0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Conv:
    """A causal convolution."""

    batch: int = 2
    length: int = 19
    d_inner: int = 33
    width: int = 4
    dtype: torch.dtype = torch.bfloat16
    options: str = "bias initial silu"
    layout: int = 0
    seed: int = 0


@dataclasses.dataclass
class Outcome:
    """Results by name, what float64 makes of the same inputs, and elements never written."""

    actual: dict
    exact: dict
    unwritten: int


def placed(x, layout):
    """The same values in rows that are part of wider ones."""
    if layout == 0:
        return x.contiguous()
    width = x.shape[-1]
    wide = torch.full((*x.shape[:-1], 2 * width + layout - 1), float("nan"), dtype=x.dtype)
    view = wide[..., width + layout - 1 :]
    return view.copy_(x)


def errors(outcome):
    """Largest error of each result beyond its rounding, as a share of the largest value."""
    found = {}
    for name, exact in outcome.exact.items():
        value = outcome.actual[name]
        assert value is not None, name
        assert value.shape == exact.shape, name
        if not exact.numel():
            found[name] = 0.0  # the state of a convolution of width 1
            continue
        if not bool(value.isfinite().all()):
            found[name] = float("inf")
            continue
        tiny = 2.0**-25 if value.dtype == torch.float16 else 0.0
        beyond = (value.double() - exact).abs() - UNIT[value.dtype] * exact.abs() - tiny
        found[name] = float(beyond.clamp_min(0).max() / exact.abs().max().clamp_min(1e-30))
    return found


def run_scan(case, emulator):
    """Run forward and backward in the emulator, and the float64 oracle."""
    make = torch.Generator().manual_seed(case.seed)
    options = case.options.split()

    def normal(*shape):
        return torch.randn(shape, generator=make)

    rows = (case.batch, case.length, case.d_inner)
    matrices = (case.batch, case.length, case.groups, case.d_state)
    states = (case.batch, case.d_inner, case.d_state)
    softplus = "softplus" in options
    delta = normal(*rows) - 2 if softplus else 0.3 * normal(*rows).abs() + 0.01
    A = -(1 + torch.arange(case.d_state).float()).repeat(case.d_inner, 1)
    A *= 0.2 + torch.rand(case.d_inner, 1, generator=make)
    A /= max(1, case.d_state // 16)
    u, z, grad_y, delta, B, C = (
        placed(x.to(case.dtype), case.layout)
        for x in (normal(*rows), normal(*rows), normal(*rows), delta, *(normal(*matrices),) * 2)
    )
    inputs = {
        "u": u,
        "delta": delta,
        "A": A,
        "B": B,
        "C": C.flip(1),
        "D": normal(case.d_inner) if "D" in options else None,
        "z": z if "z" in options else None,
        "delta_bias": 0.1 * normal(case.d_inner).abs() if "bias" in options else None,
        "initial_state": normal(*states) if "initial" in options else None,
    }
    grad_state = normal(*states) if "final" in options else None
    tensors = list(inputs.values())
    final, initial = "final" in options, "initial" in options
    with emulator.poisoned(), torch.no_grad():
        y, state, saved = scan.forward(*tensors, softplus, True, final, parts=case.parts)
        grads = scan.backward(
            grad_y, grad_state, *tensors[:8], softplus, saved, initial,
            parts=case.parts, limit=case.limit, plan=case.plan,
        )  # fmt: skip
        fresh = (y, saved, *(x for x in grads if x is not None))
        unwritten = sum(emulator.unwritten(x) for x in fresh)
    emulator.fresh.clear()
    exact = {k: None if x is None else x.double().requires_grad_() for k, x in inputs.items()}
    y64, state64 = selective_scan_reference(
        *list(exact.values())[:8], softplus, exact["initial_state"]
    )
    outputs, weights = [y64], [grad_y.double()]
    if grad_state is not None:
        outputs, weights = [y64, state64], [*weights, grad_state.double()]
    wanted = {k: x for k, x in exact.items() if x is not None}
    found = torch.autograd.grad(outputs, list(wanted.values()), weights)
    expected = {"y": y64.detach(), **dict(zip(wanted, found, strict=True))}
    actual = {"y": y, **grads._asdict()}
    if final:
        expected["state"], actual["state"] = state64.detach(), state
    return Outcome(actual, expected, unwritten)


def run_conv(case, emulator):
    """Run forward and backward in the emulator, and the float64 oracle."""
    make = torch.Generator().manual_seed(case.seed)
    options = case.options.split()

    def normal(*shape):
        return torch.randn(shape, generator=make)

    rows = (case.batch, case.length, case.d_inner)
    before = (case.batch, case.d_inner, case.width - 1)
    x, grad_y = (placed(normal(*rows).to(case.dtype), case.layout) for _ in range(2))
    weight = normal(case.d_inner, case.width)
    bias = normal(case.d_inner) if "bias" in options else None
    state = normal(*before).to(case.dtype) if "initial" in options else None
    inputs = {"x": x, "weight": weight, "bias": bias, "initial_state": state}
    silu = "silu" in options
    with emulator.poisoned(), torch.no_grad():
        y = conv.forward(*inputs.values(), silu)
        grads = conv.backward(grad_y, *inputs.values(), silu)
        unwritten = sum(emulator.unwritten(t) for t in (y, *grads) if t is not None)
    emulator.fresh.clear()
    exact = {k: None if x is None else x.double().requires_grad_() for k, x in inputs.items()}
    y64, _ = causal_conv1d_reference(
        exact["x"], exact["weight"], exact["bias"], "silu" if silu else None, exact["initial_state"]
    )
    wanted = {k: x for k, x in exact.items() if x is not None}
    found = torch.autograd.grad(y64, list(wanted.values()), grad_y.double())
    expected = {"y": y64.detach(), **dict(zip(wanted, found, strict=True))}
    return Outcome({"y": y, **grads._asdict()}, expected, unwritten)


def bits(outcome):
    """All results of an outcome, as bytes."""
    kinds = {2: torch.int16, 4: torch.int32}
    return {
        k: x.detach().contiguous().view(kinds[x.element_size()]).numpy().tobytes()
        for k, x in outcome.actual.items()
        if x is not None
    }
