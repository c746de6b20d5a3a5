"""Backend choice: a pure function of the request, the device and the dtype.

Nothing falls back silently. `auto` takes the fastest backend that can run, and `choose` says why
a faster one was passed over, so that a run can print and record it. A backend that was asked for
by name and cannot run is an error that gives the reason.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mambalab.errors import UserError, first_line
from mambalab.ops import gpu

BACKENDS = ("triton", "cpu", "torch", "reference")
"""All backends, fastest first."""

CPU_DTYPES = (torch.float32, torch.bfloat16)
MAX_STATES = 256
"""Most states of a channel (d_state) in the Triton kernels: registers hold no more."""


@dataclass(frozen=True)
class Choice:
    """Chosen backend, and for each faster one the reason why it does not run here."""

    backend: str
    passed_over: dict[str, str]

    def __str__(self) -> str:
        """The backend and the reasons, for a log line."""
        reasons = "; ".join(f"{name}: {why}" for name, why in self.passed_over.items())
        return f"{self.backend} ({reasons})" if reasons else self.backend


@functools.cache
def _numba_obstacle() -> str | None:
    """Say why numba cannot be imported, in one line; None if it can."""
    try:
        import numba  # noqa: F401
    except Exception as error:  # a broken installation can raise anything, and is only reported
        return f"numba cannot be imported ({type(error).__name__}: {first_line(error)})"
    return None


@functools.cache
def _triton_obstacle() -> str | None:
    """Say why Triton cannot be imported, in one line; None if it can."""
    try:
        import triton  # noqa: F401  # pyright: ignore[reportMissingImports]
    except Exception as error:
        return f"triton cannot be imported ({type(error).__name__}: {first_line(error)})"
    return None


def _triton_interpreted() -> bool:
    """True if Triton's interpreter was asked for: kernels then run, very slowly, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _obstacle_triton(device: torch.device, dtype: torch.dtype, d_state: int) -> str | None:
    """Say why the Triton kernels cannot run `dtype` on `device`, in one line; None if they can."""
    if dtype == torch.float64:
        return "has no float64 kernels"
    if d_state > MAX_STATES:
        return f"holds at most {MAX_STATES} states a channel, not d_state={d_state}"
    if _triton_interpreted() and device.type == "cpu":
        return _triton_obstacle()
    if device.type != "cuda":
        return f"needs a CUDA device, not {device.type}"
    return _triton_obstacle() or gpu.too_old(device) or gpu.no_launch()


def _obstacle_cpu(device: torch.device, dtype: torch.dtype, d_state: int) -> str | None:
    """Say why the CPU kernels cannot run `dtype` on `device`, in one line; None if they can."""
    del d_state  # any
    if device.type != "cpu":
        return f"needs the CPU, not {device.type}"
    if dtype not in CPU_DTYPES:
        return f"has float32 and bfloat16 kernels, none for {str(dtype).removeprefix('torch.')}"
    return _numba_obstacle()


_OBSTACLES: dict[str, Callable[[torch.device, torch.dtype, int], str | None]] = {
    "triton": _obstacle_triton,
    "cpu": _obstacle_cpu,
}


def obstacle(
    backend: str, device: torch.device, dtype: torch.dtype, d_state: int = 1
) -> str | None:
    """Say why `backend` cannot run tensors of `dtype` on `device`, in one line; None if it can.

    `d_state` is the number of states of a channel, where there is a scan.
    """
    find = _OBSTACLES.get(backend)
    return find(device, dtype, d_state) if find else None


def choose(requested: str, device: torch.device, dtype: torch.dtype, d_state: int = 1) -> Choice:
    """Choose the backend for tensors of `dtype` on `device`; say why no faster one was taken.

    `d_state` is the number of states of a channel, where there is a scan. A backend that is made
    for another kind of device is not among those passed over.

    Raises:
        UserError: `requested` is no backend, or cannot run here.
    """
    if requested == "auto":
        passed_over: dict[str, str] = {}
        for backend in BACKENDS:
            if backend == "triton" and device.type != "cuda":
                continue
            why = obstacle(backend, device, dtype, d_state)
            if why is None:
                return Choice(backend, passed_over)
            if backend == "triton" or (backend, device.type) == ("cpu", "cpu"):
                passed_over[backend] = why
        raise AssertionError("the torch backend runs everywhere")
    if requested not in BACKENDS:
        names = ", ".join(("auto", *BACKENDS))
        raise UserError(f"scan_backend={requested}: no such backend; choose one of {names}")
    why = obstacle(requested, device, dtype, d_state)
    if why is not None:
        raise UserError(f"scan_backend={requested} cannot run here: {why}; use scan_backend=auto")
    return Choice(requested, {})


def resolve(requested: str, device: torch.device, dtype: torch.dtype, d_state: int = 1) -> str:
    """Name the backend that runs tensors of `dtype` on `device` when `requested` is asked for.

    Raises:
        UserError: `requested` is no backend, or cannot run here.
    """
    return choose(requested, device, dtype, d_state).backend
