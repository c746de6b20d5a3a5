"""A GPU that is there and cannot be used is told in a line, and never a traceback."""

import pytest
import torch

from mambalab.errors import UserError
from mambalab.train import gpu, runtime


@pytest.fixture(autouse=True)
def forgotten():
    """No answer of an earlier test is remembered, and none of these later."""
    gpu.unused.cache_clear()
    runtime._tell_unused.cache_clear()
    yield
    gpu.unused.cache_clear()
    runtime._tell_unused.cache_clear()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that pretends a GPU and its driver."""

    def pretend(*, works=True, capability=(9, 0), code=("sm_80", "sm_90")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: works)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(code))
        (tmp_path / "nvidiactl").touch()
        monkeypatch.setattr(gpu, "_DRIVERS", (str(tmp_path / "nvidiactl"),))

    return pretend


@pytest.mark.parametrize(
    ("capability", "code", "runs"),
    [
        ((8, 0), ("sm_80", "sm_90"), True),
        ((8, 9), ("sm_80", "sm_90"), True),  # code for 8.0 runs on 8.9
        ((8, 0), ("sm_86",), False),
        ((7, 0), ("sm_75", "sm_80", "sm_90", "sm_120"), False),  # V100, CUDA 13
        ((6, 1), ("sm_75", "sm_80"), False),
        ((10, 0), ("sm_80", "sm_90a"), False),
        ((10, 0), ("sm_80", "compute_90"), True),  # compiled anew
        ((9, 0), ("sm_90a",), True),
        ((9, 4), ("gfx942",), True),  # another maker's
        ((9, 0), (), True),  # not told
    ],
)
def test_a_gpu_for_which_torch_has_no_code_is_not_used(machine, capability, code, runs, caplog):
    machine(capability=capability, code=code)
    assert (gpu.unused() is None) == runs
    assert runtime.choose_device("auto").type == ("cuda" if runs else "cpu")
    assert ("no code for a GPU of compute capability" in caplog.text) == (not runs)
    if not runs:
        assert ("a newer CUDA" in caplog.text) == (capability == (10, 0))
        with pytest.raises(UserError, match=r"device=cuda: torch .* has no code .*device=cpu"):
            runtime.choose_device("cuda")


def test_a_driver_that_is_too_old_is_told(machine, monkeypatch, caplog):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).\nx")

    machine(works=False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert runtime.choose_device("auto").type == "cpu"
    runtime.choose_device("auto")
    told = "the GPU of this machine is not used: The NVIDIA driver on your system is too old"
    assert caplog.text.count(told) == 1
    with pytest.raises(UserError, match=r"device=cuda: The NVIDIA driver .*; use device=cpu"):
        runtime.choose_device("cuda")


def test_a_torch_for_cpus_beside_a_gpu_is_told(machine, monkeypatch):
    machine(works=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is made for CPUs alone" in (gpu.unused() or "")


def test_no_gpu_is_no_news(machine, monkeypatch, caplog):
    machine(works=False)
    monkeypatch.setattr(gpu, "_DRIVERS", ("/nowhere/nvidiactl",))
    assert runtime.choose_device("auto").type == "cpu"
    assert caplog.text == ""
