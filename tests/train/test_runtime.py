import contextlib
import os
import subprocess
import sys

import torch

from mambalab.settings.train import Precision
from mambalab.train import runtime


def test_the_precision_is_that_of_the_gpu_asked_for_not_of_the_current_one(monkeypatch):
    asked = []

    @contextlib.contextmanager
    def current(device):
        asked.append(device)
        yield
        asked.pop()

    monkeypatch.setattr(torch.cuda, "device", current)
    second = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: asked == [second])
    assert runtime.choose_precision(Precision.auto, second) is Precision.bf16


def test_the_peak_is_that_of_the_run_not_of_the_process():
    """In a process of its own: malloc keeps what was freed once another test has trained here."""
    code = (
        "import torch; from mambalab.train import runtime\n"
        "cpu = torch.device('cpu')\n"
        "held = torch.ones(100_000_000)\n"
        "print(runtime.peak_memory_bytes(cpu))\n"
        "del held\n"
        "runtime.forget_peak_memory(cpu)\n"
        "print(runtime.peak_memory_bytes(cpu))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    if sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK):
        assert after < before - 300_000_000
