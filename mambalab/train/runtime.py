"""Adapts to the machine: device, precision, random numbers, memory, and what to record of it."""

import contextlib
import ctypes
import functools
import os
import platform
import random
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mambalab.errors import UserError
from mambalab.settings.train import Precision
from mambalab.train import gpu
from mambalab.utils import torchrun
from mambalab.utils.console import LOG

_CODE = ("mambalab", "conf", "experiments/*.yaml")  # of the checkout: what a run depends on
DTYPES = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}  # of autocast


def prepare_process() -> None:
    """Make the process fit for training on a CPU; call once, before large tensors exist.

    glibc hands every large block back to the kernel when it is freed and faults it in again,
    page by page, at the next step; keeping freed blocks makes element-wise work much faster.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def choose_device(requested: str) -> torch.device:
    """Choose the device: `auto` takes CUDA if it works, else the CPU.

    Each of several processes that torchrun started on a machine gets a GPU of its own.

    Raises:
        UserError: the requested device is not there, or several processes are to use one GPU.
    """
    place = torchrun.place()
    if place is not None and place.size > 1:
        if requested.startswith("cuda:"):
            raise UserError(
                f"device={requested}: {place.size} processes train, each on a GPU of its own; "
                "leave the number out, and choose with CUDA_VISIBLE_DEVICES"
            )
        if requested == "cuda" or (requested == "auto" and torch.cuda.is_available()):
            requested = f"cuda:{place.local_rank}"
    if requested == "auto":
        if (why := gpu.unused()) is not None:
            _tell_unused(why)
            return torch.device("cpu")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(requested)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            why = gpu.unused() or "torch finds no usable CUDA GPU"
            raise UserError(f"device={requested}: {why}; use device=cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"device={requested}: this machine has {torch.cuda.device_count()} GPU(s)"
            )
        if (why := gpu.unused(device.index or 0)) is not None:
            raise UserError(f"device={requested}: {why}; or use device=cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps: torch finds no Metal GPU; use device=cpu")
    return device


@functools.cache
def _tell_unused(why: str) -> None:
    """Warn, once in a process, of a GPU that is there and cannot be used."""
    LOG.warning("the GPU of this machine is not used: %s", why)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32, by the processor's features."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # it asks the current one
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_tile"))
    return False


def choose_precision(requested: Precision, device: torch.device) -> Precision:
    """Choose the precision: `auto` is bf16 where the processor has it in hardware, else fp32.

    Raises:
        UserError: fp16 anywhere but on an NVIDIA GPU.
    """
    if requested is Precision.fp16 and device.type != "cuda":
        raise UserError(
            f"precision=fp16: only on NVIDIA GPUs, and device={device.type} computes here; use "
            "precision=bf16 or precision=fp32"
        )
    if requested is not Precision.auto:
        return requested
    return Precision.bf16 if has_fast_bf16(device) else Precision.fp32


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager:
    """Return the context in which models compute: half matrix products, or plain float32."""
    if precision in DTYPES:
        return torch.autocast(device.type, dtype=DTYPES[precision])
    return contextlib.nullcontext()


def seed_everything(seed: int) -> None:
    """Seed every generator that initialisation or dropout may use."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - a user's own task may use it
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of torch's generators, of NumPy's and of Python's, as tensors and plain values."""
    kind, words, *rest = np.random.get_state()  # noqa: NPY002
    numpy = [kind, torch.from_numpy(np.asarray(words).astype(np.int64)), *rest]
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    state |= {"numpy": numpy, "python": random.getstate()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undo everything drawn since `random_state`; a run may come back on another device."""
    torch.set_rng_state(state["cpu"])
    kind, words, *rest = state["numpy"]
    np.random.set_state((kind, words.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def forget_peak_memory(device: torch.device) -> None:
    """Count the peak from here on, where that can be had: a process may train several runs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # Linux alone has it, and not every container
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held since `forget_peak_memory`: of the GPU's allocator, or resident here."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts what the process was started from
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def load_average() -> float | None:
    """Threads that wanted to run in the last minute, on average; None where that is unknown."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):  # AttributeError: Windows
        return None


def device_name(device: torch.device) -> str:
    """Name a person recognises, e.g. `NVIDIA H200` or `AMD EPYC, 2 threads`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Versions of Python and the packages that the numbers of a run depend on, by name."""
    names = ("mambalab", "torch", "triton", "numba", "numpy", "mlflow")
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def git_revision() -> str | None:
    """Commit of the code that runs, `+changes` if the tree is dirty; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10, env=environment
        ).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "-uno")
        # A new file is code, too, where it would be imported or read as settings.
        changed = changed or git("ls-files", "--others", "--exclude-standard", "--", *_CODE)
        return revision + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
