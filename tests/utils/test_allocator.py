"""Freed memory stays with the process, unless the user has settings of malloc's own."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from mambalab.utils.allocator import keep_freed_memory

kept = keep_freed_memory()
def fill():
    for size in (50_000_000, 3_000_000, 20_000_000):
        np.empty(size, np.uint8).fill(1)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def faults(**environment: str) -> tuple[str, int]:
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=surroundings | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@glibc
def test_freed_memory_is_not_asked_for_anew():
    kept, count = faults()
    assert kept == "True"
    assert count < 1000  # else 10 * 12,000 pages


@glibc
@pytest.mark.parametrize(
    "own", [{"MALLOC_MMAP_MAX_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.top_pad=131072"}]
)
def test_the_users_own_settings_win(own):
    kept, count = faults(**own)
    assert kept == "False"
    assert count > 10_000


def test_another_c_library_is_left_alone(monkeypatch):
    from mambalab.utils import allocator

    for name in allocator._OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
