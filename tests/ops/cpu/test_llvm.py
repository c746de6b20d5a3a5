"""Which vectors the CPU kernels are made of."""

import importlib.util

import pytest
from numba.core import config

from mambalab.ops.cpu import llvm as cpu_llvm


@pytest.mark.parametrize(
    ("features", "lanes"), [("+avx2,+fma", 8), ("+avx2,+avx512f", 16), ("", 8)]
)
def test_vectors_fit_the_processor_that_numba_compiles_for(monkeypatch, features, lanes):
    monkeypatch.setattr(config, "CPU_FEATURES", features)
    spec = importlib.util.spec_from_file_location("another_cpu_llvm", cpu_llvm.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    found = again.LANES
    assert found == lanes
