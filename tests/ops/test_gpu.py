"""What Triton lacks on a machine with a GPU is told in a line, and another backend taken."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from mambalab.errors import UserError
from mambalab.ops import backend, gpu

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def forgotten():
    """No answer of an earlier test is remembered."""
    for function in (gpu.no_launch, backend._triton_obstacle):
        function.cache_clear()
    yield
    for function in (gpu.no_launch, backend._triton_obstacle):
        function.cache_clear()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that pretends a GPU, and a Triton whose first launch ends in an error."""

    def pretend(*, works=True, launch=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: works)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))

        def current_device():
            if launch is not None:
                raise launch
            return 0

        triton, runtime = ModuleType("triton"), ModuleType("triton.runtime")
        active = SimpleNamespace(get_current_device=current_device)
        vars(runtime)["driver"] = SimpleNamespace(active=active)
        monkeypatch.setitem(sys.modules, "triton", triton)
        monkeypatch.setitem(sys.modules, "triton.runtime", runtime)

    return pretend


@pytest.mark.parametrize("there", [(), ("gcc",), ("Python.h",), ("gcc", "Python.h")])
def test_what_triton_lacks_to_compile_is_named(machine, monkeypatch, tmp_path, there):
    machine(launch=RuntimeError("Failed to find C compiler.\nmore"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(gpu.sysconfig, "get_path", lambda *_: str(tmp_path))
    if "Python.h" in there:
        (tmp_path / "Python.h").touch()
    why = gpu.no_launch()
    assert why is not None
    assert ("a C compiler" in why) == ("gcc" not in there)
    assert ("Python.h" in why) == ("Python.h" not in there)
    assert ("apt install gcc python3." in why) == (len(there) < 2)
    assert ("(RuntimeError: Failed to find C compiler)" in why) == (len(there) == 2)
    assert backend.obstacle("triton", CUDA, torch.float32) == why
    chosen = backend.choose("auto", CUDA, torch.float32)
    assert chosen.backend == "torch"
    assert why in str(chosen)
    with pytest.raises(UserError, match="scan_backend=triton cannot run here"):
        backend.choose("triton", CUDA, torch.float32)


def test_a_gpu_on_which_all_is_well(machine):
    machine()
    assert backend.choose("auto", CUDA, torch.float32).backend == "triton"


def test_without_a_gpu_nothing_is_launched(machine):
    machine(works=False, launch=RuntimeError("no GPU"))
    assert gpu.no_launch() is None


@pytest.mark.parametrize("home", [None, "closed", "open"])
def test_compiled_kernels_are_kept_where_one_may_write(machine, monkeypatch, tmp_path, home):
    machine()
    for name in ("TRITON_CACHE_DIR", "TRITON_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpu, "home_is_known", lambda: home is not None)
    monkeypatch.setattr(gpu.os, "access", lambda *_: home == "open")
    monkeypatch.setattr(gpu, "private_folder", lambda name: tmp_path / name)
    assert gpu.no_launch() is None
    kept = os.environ.pop("TRITON_CACHE_DIR", None)
    assert kept == (None if home == "open" else str(tmp_path / "triton"))
