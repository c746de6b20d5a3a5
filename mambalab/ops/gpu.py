"""What a machine with an NVIDIA GPU lacks before Triton can run kernels on it."""

import functools
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

from mambalab.errors import first_line
from mambalab.utils.console import LOG
from mambalab.utils.private import home_is_known, private_folder

_MIN_COMPUTE_CAPABILITY = (7, 0)  # of a GPU, for Triton


def too_old(device: torch.device) -> str | None:
    """Say why this GPU cannot run Triton's code, in one line; None if it can or is absent."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_capability(device)
    if found >= _MIN_COMPUTE_CAPABILITY:
        return None
    needed, here = (".".join(map(str, version)) for version in (_MIN_COMPUTE_CAPABILITY, found))
    return f"needs a GPU of compute capability {needed} or newer, this one has {here}"


@functools.cache
def no_launch() -> str | None:
    """Say why Triton cannot launch a kernel, in one line; None if it can, or there is no GPU.

    It compiles a little C code of its own before the first launch, and keeps it.
    """
    if not torch.cuda.is_available():
        return None
    _keep_cache()
    try:
        from triton.runtime import driver  # pyright: ignore[reportMissingImports]

        driver.active.get_current_device()  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # of a compiler, a linker, a driver
        return (
            _not_compiled()
            or f"cannot launch kernels ({type(error).__name__}: {first_line(error)})"
        )
    return None


def _not_compiled() -> str | None:
    """Say what is missing to compile C code against Python; None if nothing is."""
    names = [os.environ.get("CC", ""), "gcc", "clang"]
    lacking = []
    if not any(shutil.which(name) for name in names if name):
        lacking.append("a C compiler")
    if not Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").is_file():
        lacking.append("Python.h")
    if not lacking:
        return None
    version = ".".join(map(str, sys.version_info[:2]))
    return (
        f"needs {' and '.join(lacking)} before its first launch: apt install gcc "
        f"python{version}-dev (Debian, Ubuntu), dnf install gcc python3-devel (Fedora)"
    )


def _keep_cache() -> None:
    """Let Triton keep what it compiles among temporary files where there is no home for it."""
    if any(name in os.environ for name in ("TRITON_CACHE_DIR", "TRITON_HOME")):
        return
    home = Path(os.path.expanduser("~"))
    if home_is_known() and os.access(home, os.W_OK):
        return
    folder = private_folder("triton") or Path(tempfile.mkdtemp(prefix="mambalab-triton-"))
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    LOG.warning("Triton's compiled kernels are kept in %s; TRITON_CACHE_DIR chooses", folder)
