"""Compiles the CPU kernels at first use and runs them on torch's threads.

A kernel is a C function of one address: a block of int64 that starts with `HEADER`. It claims a
worker number and then task after task from two shared counters, so any number of threads may call
it at once with the same block, and each result depends on the task alone, never on the thread.

Threads, in order of preference:

- One, if torch is set to one thread, the work is small, or the process was forked: an OpenMP
  runtime does not survive a fork.
- The team of the OpenMP runtime that torch itself has loaded. Its threads are there already, and
  two teams that wait for work by spinning would take the cores from each other.
- A pool of Python threads, where that runtime has no GOMP_parallel (macOS).
"""

import ctypes
import functools
import hashlib
import os
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.core import event

from mambalab.utils.console import print_above_bar
from mambalab.utils.private import home_is_known, private_folder

HEADER = ("tickets", "tasks", "scratch", "scratch_bytes")
"""First fields of every block: address of the two counters, tasks, scratch memory per worker."""

_CACHE_LINE = 64
_numba: Any = numba.config  # pyright: ignore[reportPrivateImportUsage]
_forked = False
_lock = threading.Lock()
_announced = False
_cacheable = True


def _after_fork() -> None:
    """Note in a forked child that OpenMP is unusable, and replace the lock."""
    global _forked, _lock
    _forked = True
    _lock = threading.Lock()  # the parent's may have been held by a thread that is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def _sources() -> int:
    """Hash the code of all kernels to a number: numba itself watches single files only."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:7], "little")


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Allocate a tensor on the CPU, whatever torch's default dtype and device are."""
    return torch.empty(shape, dtype=dtype, device="cpu")


class _Announce(event.Listener):
    """Prints on stderr, once in a process, that a compilation has begun."""

    def on_start(self, event: Any) -> None:
        global _announced
        if not _announced:
            _announced = True
            what = "compiling the CPU kernels for this machine (once, some seconds)"
            print_above_bar(f"mambalab: {what} ...", sys.stderr)
            sys.stderr.flush()

    def on_end(self, event: Any) -> None:
        pass


def _move_cache() -> bool:
    """Let numba keep compiled kernels in a temporary folder of one's own, the first time.

    Returns:
        whether that is possible and was not done before.
    """
    global _cacheable
    folder = private_folder("numba")
    if folder is not None and str(folder) == _numba.CACHE_DIR:
        folder = None  # it does not take them
    _cacheable = folder is not None
    where = f"are kept in {folder}" if folder else "cannot be kept and are compiled at each start"
    print(
        f"mambalab: the compiled CPU kernels {where}; set NUMBA_CACHE_DIR to a writable folder "
        "to keep them there",
        file=sys.stderr,
        flush=True,
    )
    if folder is not None:
        _numba.CACHE_DIR = str(folder)
    return _cacheable


class Kernel:
    """A kernel that is compiled, or read from numba's cache on disk, when it is first run.

    Args:
        build: makes the Python function of the kernel; takes the number from `_sources`.
        fields: names of the int64 values after `HEADER` in the block that it reads.
    """

    def __init__(
        self, build: Callable[[int], Callable[[Any], None]], fields: Sequence[str]
    ) -> None:
        self._build = build
        self._fields = (*HEADER, *fields)
        self._compiled: Any = None  # keeps the machine code alive
        self._call: Any = None

    def load(self) -> Any:
        """Return the C function, compiled at the first call."""
        if self._call is None:
            with _lock:
                if self._call is None:
                    self._compiled = self._compile()
                    self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._compiled.address)
        return self._call

    def _compile(self) -> Any:
        """Compile the kernel or read it from numba's cache, if there is a place for one."""
        record = numba.from_dtype(np.dtype([(name, np.int64) for name in self._fields]))
        signature = types.void(types.CPointer(record))
        function = self._build(_sources())
        with event.install_listener("numba:compile", _Announce()):
            if not _cacheable:
                return numba.cfunc(signature)(function)
            here = Path(__file__).parent
            if not (_numba.CACHE_DIR or home_is_known() or os.access(here, os.W_OK)):
                _move_cache()  # numba would make a folder called ~
            for _ in range(2):
                try:
                    return numba.cfunc(signature, cache=True)(function)
                except (RuntimeError, OSError) as error:
                    if isinstance(error, RuntimeError) and "no locator available" not in str(error):
                        raise
                    if not _move_cache():
                        break
            return numba.cfunc(signature)(function)

    def run(self, values: Sequence[int], tasks: int, scratch_bytes: int, parallel: bool) -> None:
        """Run all tasks; return when they are done.

        Args:
            values: the fields after `HEADER`.
            tasks: their number.
            scratch_bytes: memory of each worker.
            parallel: the work is worth more than one thread.
        """
        call = self.load()
        threads = min(torch.get_num_threads(), tasks) if parallel and not _forked else 1
        scratch_bytes += -scratch_bytes % _CACHE_LINE
        memory = empty((threads * scratch_bytes + 2 * _CACHE_LINE,), torch.uint8)
        scratch = memory.data_ptr() + 2 * _CACHE_LINE - 1
        scratch -= scratch % _CACHE_LINE
        tickets = array("q", (0, 0))
        block = array("q", (tickets.buffer_info()[0], tasks, scratch, scratch_bytes, *values))
        address = block.buffer_info()[0]
        if threads == 1:
            call(address)
        elif (team := _openmp_team()) is not None:
            team(call, address, threads, 0)
        else:
            _run_on_pool(call, address, threads)


@functools.cache
def _openmp_team() -> Any:
    """Find GOMP_parallel(function, data, threads, flags) of torch's OpenMP; None without one."""
    libraries: list[str | None] = [None]  # what torch itself resolves first: the global scope
    libraries += [
        str(path) for path in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")
    ]
    for library in libraries:
        try:
            team = ctypes.CDLL(library).GOMP_parallel
        except (OSError, AttributeError):
            continue
        team.restype = None
        team.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        return team
    return None


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Thread pool of this size, made once in a process."""
    return ThreadPoolExecutor(threads, thread_name_prefix="mambalab-kernel")


def _run_on_pool(call: Any, address: int, threads: int) -> None:
    """Run a kernel on `threads` - 1 threads of the pool and on this one."""
    helpers = [_pool(threads - 1).submit(call, address) for _ in range(threads - 1)]
    try:
        call(address)
    finally:  # nobody may touch the block after this returns, not even after Ctrl-C
        for helper in helpers:
            if not helper.cancel():
                helper.result()
