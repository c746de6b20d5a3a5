"""Every backend's modules have the functions of the interface, with its signatures."""

import inspect
from importlib import import_module

import pytest

from mambalab.ops.interface import ConvImplementation, ScanImplementation

OPERATORS = {"selective_scan": ScanImplementation, "causal_conv1d": ConvImplementation}
CASES = [
    (operator, backend)
    for operator in OPERATORS
    for backend in import_module(f"mambalab.ops.{operator}")._IMPLEMENTATIONS
]


@pytest.mark.parametrize(("operator", "backend"), CASES)
def test_a_backend_keeps_to_the_interface(operator, backend):
    if backend == "triton":
        pytest.importorskip("triton", reason="triton has no wheel for this machine")
    module = import_module(import_module(f"mambalab.ops.{operator}")._IMPLEMENTATIONS[backend])
    for name, promised in inspect.getmembers(OPERATORS[operator], inspect.isfunction):
        if name.startswith("_"):
            continue
        expected = list(inspect.signature(promised).parameters.values())[1:]  # without self
        found = list(inspect.signature(getattr(module, name)).parameters.values())
        assert found[: len(expected)] == expected, name
        for more in found[len(expected) :]:  # such as a number of segments, for tests
            assert more.default is not inspect.Parameter.empty, (name, more)
