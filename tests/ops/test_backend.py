import pytest
import torch

from mambalab.errors import UserError
from mambalab.ops import backend
from mambalab.ops.backend import choose, resolve

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def test_explicit_requests_are_met_or_refused():
    assert resolve("torch", CPU, torch.float64) == "torch"
    assert resolve("reference", CUDA, torch.bfloat16) == "reference"
    with pytest.raises(
        UserError, match="scan_backend=cpu cannot run here: needs the CPU, not cuda"
    ):
        resolve("cpu", CUDA, torch.float32)
    with pytest.raises(UserError, match="none for float64"):
        resolve("cpu", CPU, torch.float64)
    with pytest.raises(UserError, match="needs a CUDA device, not cpu"):
        resolve("triton", CPU, torch.float32)
    with pytest.raises(UserError, match="choose one of auto, triton, cpu, torch, reference"):
        resolve("cuda", CPU, torch.float32)


def test_auto_takes_the_fastest_that_runs(monkeypatch):
    monkeypatch.setattr(backend, "_numba_obstacle", lambda: None)
    monkeypatch.setattr(backend, "_triton_obstacle", lambda: None)
    assert resolve("auto", CPU, torch.float32) == "cpu"
    assert resolve("auto", CPU, torch.bfloat16) == "cpu"
    assert resolve("auto", CPU, torch.float64) == "torch"
    assert resolve("auto", CUDA, torch.float32) == "triton"
    assert resolve("auto", MPS, torch.float32) == "torch"
    assert choose("auto", MPS, torch.float32).passed_over == {}


def test_too_many_states_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(backend, "_triton_obstacle", lambda: None)
    assert resolve("triton", CUDA, torch.float32, 256) == "triton"
    why = "holds at most 256 states a channel, not d_state=257"
    with pytest.raises(UserError, match=f"scan_backend=triton cannot run here: {why}"):
        resolve("triton", CUDA, torch.float32, 257)
    assert str(choose("auto", CUDA, torch.float32, 257)) == f"torch (triton: {why})"
    assert resolve("auto", CPU, torch.float32, 257) == "cpu"


def test_auto_says_why_a_faster_one_was_passed_over(monkeypatch):
    monkeypatch.setattr(backend, "_numba_obstacle", lambda: "numba cannot be imported (no wheel)")
    choice = choose("auto", CPU, torch.float32)
    assert choice.backend == "torch"
    assert str(choice) == "torch (cpu: numba cannot be imported (no wheel))"
    monkeypatch.setattr(backend, "_triton_obstacle", lambda: "no kernels")
    assert str(choose("auto", CUDA, torch.float32)) == "torch (triton: no kernels)"


def test_a_broken_numba_is_reported_in_one_line(monkeypatch):
    def broken_import(name, *args, **kwargs):
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.5 or less\nTraceback ...")
        return real_import(name, *args, **kwargs)

    real_import = __import__
    backend._numba_obstacle.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("builtins.__import__", broken_import)
        why = backend._numba_obstacle()
    backend._numba_obstacle.cache_clear()
    assert why == "numba cannot be imported (ImportError: Numba needs NumPy 2.5 or less)"
