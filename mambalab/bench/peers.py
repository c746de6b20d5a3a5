"""Other implementations of the scan, each made ready if it is installed, else with the reason.

Each takes (u, delta, A, B, C, D) as our operator does and returns y; the yardstick has a backward
of its own and is not differentiable.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambalab.bench import mamba_ssm_source
from mambalab.errors import UserError, first_line
from mambalab.utils.packages import why_not_imported

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """Another implementation: `scan` if it is here, else why it is not."""

    name: str
    version: str | None = None
    scan: Scan | None = None
    missing: str | None = None


def mambapy() -> Peer:
    """mambapy's parallel scan, materialised (b, l, d, n) in plain PyTorch."""
    try:
        pscan = importlib.import_module("mambapy.pscan").pscan
    except ImportError as error:
        return Peer("mambapy", missing=why_not_imported(error))

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        decay = torch.exp(delta.unsqueeze(-1) * A)
        drive = delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1)
        return (pscan(decay, drive) @ C.unsqueeze(-1)).squeeze(3) + D * u

    return Peer("mambapy", metadata.version("mambapy"), scan)


def mamba_ssm(device: torch.device) -> Peer:
    """mamba_ssm's CUDA kernel, as installed, or compiled from its sources (`mamba_ssm_source`)."""
    if device.type != "cuda":
        return Peer("mamba_ssm", missing="runs on CUDA only")
    if (folder := mamba_ssm_source.source()) is not None:
        try:
            scan = mamba_ssm_source.scan_of(mamba_ssm_source.build(folder))
        except UserError as error:
            return Peer("mamba_ssm", missing=str(error))
        return Peer("mamba_ssm", f"{mamba_ssm_source.version(folder)}, compiled here", scan)
    try:
        module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        importlib.import_module("selective_scan_cuda")
    except ImportError as error:
        return Peer("mamba_ssm", missing=f"with its CUDA kernel {why_not_imported(error)}")

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
        return module.selective_scan_fn(u, delta, A, B, C, D).transpose(1, 2)

    return Peer("mamba_ssm", metadata.version("mamba_ssm"), scan)


class Yardstick:
    """A C++ scan with `fwd(u, delta, A, B, C, D, states, chunk)` and `bwd(dy, ...)`, N = 16.

    Built for this very machine by the compiler found here, which our users need not have.
    """

    CHUNK = 64
    LANES = 16

    def __init__(self, source: str) -> None:
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(f"yardstick={source}: no such file")
        from torch.utils.cpp_extension import load

        flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp"]
        try:
            self.module: Any = load(
                "mambalab_yardstick",
                [str(path)],
                extra_cflags=flags,
                extra_ldflags=["-fopenmp"],
            )
        except (RuntimeError, OSError) as error:
            raise UserError(f"yardstick={source}: {first_line(error)}") from error

    def calls(
        self, inputs: list[Tensor], grad_y: Tensor
    ) -> tuple[Callable[[], Tensor], Callable[[], Any]]:
        """Its forward, and its forward and backward; both of the inputs as float32."""
        inputs, grad_y = [value.float() for value in inputs], grad_y.float()
        u, A = inputs[0], inputs[2]
        batch, length, d_inner = u.shape
        shape = (batch, -(-length // self.CHUNK), d_inner // self.LANES, A.shape[1], self.LANES)
        states = torch.empty(shape)

        def forward() -> Tensor:
            return self.module.fwd(*inputs, states, self.CHUNK)

        def both() -> Any:
            forward()
            return self.module.bwd(grad_y, *inputs, states, self.CHUNK)

        return forward, both
