"""`mambalab bench scan`: the operator against its peers, correct results first, N = 16."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mambalab.bench import peers
from mambalab.bench.report import Result
from mambalab.bench.timing import in_turns, milliseconds
from mambalab.ops import backend, selective_scan
from mambalab.ops.reference import selective_scan_reference
from mambalab.train import runtime

STATES = 16
SHAPES = {
    "cpu": ["16x256x256", "4x784x256", "1x4096x256"],
    "cuda": ["64x256x512", "8x2048x2048", "2x16384x2048", "1x65536x2048"],
}
_MAX_MATERIALISED = 2**21  # elements of u up to which peers that materialise (b, l, d, n) run


_NAMES = ("y", "gradient of u", "of delta", "of A", "of B", "of C", "of D")


def _ours(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    return selective_scan(u, delta, A, B, C, D)


def _inputs(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """u, delta, A, B, C, D as a trained layer has them: small steps, decaying states."""
    make = torch.Generator().manual_seed(0)
    batch, length, d_inner = shape
    u = torch.randn(shape, generator=make)
    delta = 0.1 * torch.rand(shape, generator=make)
    A = -(0.1 + 16 * torch.rand(d_inner, STATES, generator=make))
    B, C = torch.randn(2, batch, length, STATES, generator=make)
    D = torch.randn(d_inner, generator=make)
    wide = (x.to(device) for x in (A, D))
    A, D = wide
    u, delta, B, C = (x.to(device, dtype) for x in (u, delta, B, C))
    return [u, delta, A, B, C, D]


def _both(scan: peers.Scan, inputs: list[Tensor], grad_y: Tensor) -> Callable[[], list[Tensor]]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return lambda: list(torch.autograd.grad(scan(*leaves), leaves, grad_y))


def _fault(scan: peers.Scan, device: torch.device, dtype: torch.dtype) -> str | None:
    """What is wrong with an implementation's output, gradients or repeatability; None if right."""
    inputs = _inputs((2, 65, 32), device, dtype)
    grad_y = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    exact = [x.cpu().double() for x in inputs]

    def oracle(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        return selective_scan_reference(u, delta, A, B, C, D)[0]

    expected = [oracle(*exact), *_both(oracle, exact, grad_y.cpu().double())()]
    run = _both(scan, inputs, grad_y.to(device, dtype))
    actual = [scan(*inputs), *run()]
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for name, one, other in zip(_NAMES, actual, expected, strict=True):
        error = float((one.cpu().double() - other).norm() / other.norm())
        if not error <= tolerance:
            return f"{name} is off by {error:.1e}"
    if scan is _ours and not all(torch.equal(x, z) for x, z in zip(actual[1:], run(), strict=True)):
        return "two backward passes differ"
    return None


def measure(
    device: torch.device,
    dtype: str | None,
    shapes: list[str] | None,
    lengths: list[int] | None,
    seconds: float,
    yardstick: str | None,
) -> Result:
    """Time forward, and forward and backward, of all that is here; our ratio to each peer."""
    default = "float32" if device.type == "cpu" else "bfloat16"
    kind: torch.dtype = getattr(torch, dtype or default)
    chosen = backend.choose("auto", device, kind)
    result = Result(
        what="scan",
        device=device.type,
        machine=f"{runtime.device_name(device)}, {dtype or default}",
        versions=runtime.package_versions(),
        options={"dtype": dtype or default, "N": STATES, "seconds": seconds, "scan": str(chosen)},
        columns=["shape", "contender", "forward ms", "both ms", "ours: forward x", "both x"],
        axis="forward + backward (µs a step), B=1",
    )
    result.options["git_revision"] = runtime.git_revision()
    result.notes.append(f"ours: backend {chosen}; x: how many times as fast as the contender")
    contenders: dict[str, peers.Scan] = {"mambalab": _ours}
    for peer in (peers.mambapy(), peers.mamba_ssm(device)):
        if peer.scan is None:
            result.missing[peer.name] = peer.missing or ""
        else:
            contenders[peer.name] = peer.scan
            result.versions[peer.name] = peer.version or ""
    native = None
    if device.type == "cpu" and yardstick is not None:
        native = peers.Yardstick(yardstick)
        if kind != torch.float32:
            result.notes.append("C++ yardstick: of float32, the one type it has")
    elif device.type == "cpu":
        result.missing["C++ yardstick"] = "give yardstick=FILE.cpp"
    for name in list(contenders):
        if (fault := _fault(contenders[name], device, kind)) is not None:
            result.wrong[name] = fault
            del contenders[name]
    if "mambalab" in result.wrong:
        return result

    for text in shapes or SHAPES["cuda" if device.type == "cuda" else "cpu"]:
        batch, length, d_inner = (int(x) for x in text.split("x"))
        _compare(result, (batch, length, d_inner), contenders, native, device, kind, seconds)
    usual = [4**k for k in range(3, 9)]
    for length in usual if lengths is None else lengths:
        shape = (1, length, 256 if device.type == "cpu" else 2048)
        _compare(result, shape, contenders, native, device, kind, seconds / 4, curve=True)
    return result


def _compare(
    result: Result,
    shape: tuple[int, int, int],
    contenders: dict[str, peers.Scan],
    native: peers.Yardstick | None,
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
    curve: bool = False,
) -> None:
    """Time all contenders on one shape: a row each, or a point each of the picture."""
    inputs = _inputs(shape, device, dtype)
    grad_y = torch.randn_like(inputs[0])
    forward: dict[str, Callable[[], Any]] = {}
    both: dict[str, Callable[[], Any]] = {}
    for name, scan in contenders.items():
        if name == "mambapy" and inputs[0].numel() > _MAX_MATERIALISED:
            continue
        forward[name] = torch.no_grad()(lambda scan=scan: scan(*inputs))
        both[name] = _both(scan, inputs, grad_y)
    if native is not None and shape[2] % native.LANES == 0:
        forward["C++ yardstick"], both["C++ yardstick"] = native.calls(inputs, grad_y)
    took = {
        key: {name: milliseconds(times) for name, times in found.items()}
        for key, found in (
            ("forward", {} if curve else in_turns(forward, device, seconds)),
            ("both", in_turns(both, device, seconds)),
        )
    }
    if curve:
        for name, value in took["both"].items():
            point = (shape[1], 1e3 * value / (shape[0] * shape[1]))
            result.curves.setdefault(name, []).append(point)
        return
    for name, value in took["both"].items():
        first = took["forward"][name]
        row: dict[str, Any] = {"shape": "x".join(map(str, shape)), "contender": name}
        row |= {"forward ms": first, "both ms": value}
        if name != "mambalab":
            row["ours: forward x"] = first / took["forward"]["mambalab"]
            row["both x"] = value / took["both"]["mambalab"]
        result.rows.append(row)
