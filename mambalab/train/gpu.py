"""Whether torch can use the NVIDIA GPU of this machine, and why not."""

import functools
import os
from collections.abc import Sequence

import torch

from mambalab.errors import first_line

_DRIVERS = ("/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")  # NVIDIA's, on Linux and in WSL2


@functools.cache
def unused(index: int = 0) -> str | None:
    """Say why torch does not use the NVIDIA GPU that is there, in one line.

    Args:
        index: which of several.

    Returns:
        None if it can be used, or there is none.
    """
    if torch.cuda.is_available():
        if index >= torch.cuda.device_count():
            return None
        found = torch.cuda.get_device_capability(index)
        return _without_code(found, torch.cuda.get_arch_list())
    if not any(map(os.path.exists, _DRIVERS)):
        return None
    if torch.version.hip is None and torch.version.cuda is None:
        return f"torch {torch.__version__} is made for CPUs alone: install another build of it"
    try:
        torch.cuda.init()
    except Exception as error:  # whatever a driver says
        return first_line(error)
    return None


def _without_code(capability: tuple[int, int], architectures: Sequence[str]) -> str | None:
    """Say that a build of torch holds no code for a GPU; None if it does.

    Args:
        capability: compute capability of the GPU.
        architectures: from `torch.cuda.get_arch_list`, as `sm_80` (runs on 8.0 to 8.9) and
            `compute_90` (compiled anew for 9.0 and later).
    """
    if not architectures:
        return None
    newest = (0, 0)
    for name in architectures:
        kind, _, digits = name.rstrip("abcdefgh").partition("_")
        if kind not in ("sm", "compute") or not digits.isdigit():
            return None  # not NVIDIA's names: nothing is known
        made_for = int(digits[:-1]), int(digits[-1])
        fits = made_for[0] == capability[0] if kind == "sm" else True
        if fits and made_for <= capability:
            return None
        newest = max(newest, made_for)
    age = "a newer" if capability > newest else "an older"
    found = ".".join(map(str, capability))
    return (
        f"torch {torch.__version__} has no code for a GPU of compute capability {found} "
        f"({', '.join(architectures)}): install a build of torch for {age} CUDA"
    )
