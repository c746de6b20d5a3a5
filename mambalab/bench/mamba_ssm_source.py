"""mamba_ssm's CUDA scan compiled from its own sources, where only these are at hand.

`$MAMBA_SSM_SOURCE` names the unpacked source distribution of mamba_ssm (its folder with
`csrc/selective_scan`). Only the kernels are compiled, with the nvcc that is here and for the GPU
that is here; the Python package, with what it needs, is not imported.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambalab.errors import UserError, first_line

VARIABLE = "MAMBA_SSM_SOURCE"


def source() -> Path | None:
    """The folder that the environment names, if any."""
    found = os.environ.get(VARIABLE)
    return Path(found).expanduser() if found else None


def version(folder: Path) -> str:
    """The version of the sources, as their own `__version__` says."""
    try:
        text = (folder / "mamba_ssm" / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"__version__ = \"([^\"]+)\"", text)
    return found[1] if found else "unknown"


def build(folder: Path) -> Any:
    """Compile the kernels; minutes at first, kept in torch's folder of extensions.

    Raises:
        UserError: no sources there, no compiler, or the compiler fails.
    """
    kernels = folder / "csrc" / "selective_scan"
    files = sorted(map(str, [*kernels.glob("*.cpp"), *kernels.glob("*.cu")]))
    if not files:
        raise UserError(f"{VARIABLE}={folder}: no csrc/selective_scan there")
    from torch.utils.cpp_extension import load

    major, minor = torch.cuda.get_device_capability()
    os.environ["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"
    flags = ["-O3", "-std=c++17", "--use_fast_math", "--expt-relaxed-constexpr"]
    flags += ["--expt-extended-lambda", "-U__CUDA_NO_HALF_OPERATORS__"]
    flags += ["-U__CUDA_NO_HALF_CONVERSIONS__", "-U__CUDA_NO_BFLOAT16_OPERATORS__"]
    flags += ["-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-U__CUDA_NO_BFLOAT162_OPERATORS__"]
    try:
        return load(
            "mambalab_mamba_ssm",
            files,
            extra_cflags=["-O3", "-std=c++17"],
            extra_cuda_cflags=flags,
            extra_include_paths=[str(kernels)],
        )
    except (RuntimeError, OSError) as error:
        raise UserError(f"{VARIABLE}={folder}: {first_line(error)}") from error


def scan_of(kernels: Any) -> Any:
    """Wrap the compiled kernels as a scan of (b, l, d) tensors with a gradient.

    Args:
        kernels: has `fwd` and `bwd` as mamba_ssm's extension has them; inputs are (b, d, l) and
            (b, groups, n, l), gradients of B and C come back in float32.
    """

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            u, delta, A, B, C, D = inputs
            y, states, *_ = kernels.fwd(u, delta, A, B, C, D, None, None, False)
            ctx.save_for_backward(u, delta, A, B, C, D, states)
            return y

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            u, delta, A, B, C, D, states = ctx.saved_tensors
            (grad,) = (g if g.stride(-1) == 1 else g.contiguous() for g in grads)
            du, ddelta, dA, dB, dC, dD, *_ = kernels.bwd(
                u, delta, A, B, C, D, None, None, grad, states, None, None, False, False
            )
            return du, ddelta, dA, dB.to(B.dtype), dC.to(C.dtype), dD

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        u, delta = (x.transpose(1, 2).contiguous() for x in (u, delta))
        B, C = (x.transpose(1, 2).contiguous()[:, None] for x in (B, C))
        found: Any = Scan.apply(u, delta, A, B, C, D)
        return found.transpose(1, 2)

    return scan
