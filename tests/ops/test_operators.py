"""The operators inside torch: schema, fake tensors, compilation, autocast, memory."""

import functools
import weakref
from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mambalab.ops import causal_conv1d, selective_scan
from tests.ops.cases import assert_close, cast, results, scan_case, widened

FAST = ("cpu", "torch")
ORDER = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


# opcheck reads .grad of copies that it makes itself.
ignore_own_warning = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@ignore_own_warning
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_of_the_scan(backend, dtype):
    case = cast(scan_case(2, 5, 6, 3, groups=2), dtype)
    tensors = [case[k].requires_grad_() for k in ORDER]
    op = torch.ops.mambalab.selective_scan.default
    torch.library.opcheck(op, (*tensors, True, True, True, backend))
    tensors[5:] = [None] * 4
    torch.library.opcheck(op, (*tensors, False, False, True, backend))


@pytest.mark.parametrize("backend", FAST)
def test_opcheck_of_the_scan_backward(backend):
    case = cast(scan_case(2, 40, 6, 3), torch.float32)
    tensors = [case[k] for k in ORDER]
    y, state, kept = torch.ops.mambalab.selective_scan(*tensors, True, True, True, backend)
    op = torch.ops.mambalab.selective_scan_backward.default
    tests = ("test_schema", "test_faketensor")  # it has no derivative of its own
    for grad_state in (state, None):
        args = (y, grad_state, *tensors[:-1], kept, True, backend)
        torch.library.opcheck(op, args, test_utils=tests)


@ignore_own_warning
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_of_the_convolution(backend, dtype):
    x, state = torch.randn(2, 5, 6).to(dtype), torch.randn(2, 6, 3).to(dtype)
    weight, bias = torch.randn(6, 4), torch.randn(6)
    tensors = [t.requires_grad_() for t in (x, weight, bias, state)]
    op = torch.ops.mambalab.causal_conv1d.default
    torch.library.opcheck(op, (*tensors, True, backend))
    torch.library.opcheck(op, (*tensors[:2], None, None, False, backend))
    op = torch.ops.mambalab.causal_conv1d_backward.default
    tests = ("test_schema", "test_faketensor")
    detached = [t.detach() for t in (x, *tensors)]
    torch.library.opcheck(op, (*detached, True, backend), test_utils=tests)


@pytest.mark.parametrize("backend", ["auto", *FAST])
def test_compiles_without_graph_breaks(backend):
    def layer(u, weight, **rest):
        x, conv_state = causal_conv1d(
            u, weight, activation="silu", return_final_state=True, backend=backend
        )
        options = {"delta_softplus": True, "return_final_state": True, "backend": backend}
        y, state = selective_scan(x, **rest, **options)
        return y + conv_state.sum(), state

    torch.compiler.reset()
    case = cast(scan_case(2, 40, 6, 3, groups=2), torch.float32)
    case["weight"] = torch.randn(6, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(results(compiled, case), widened(results(layer, case)), 1e-6)
    torch.compiler.reset()


@pytest.mark.parametrize("backend", FAST)
def test_autocast_leaves_the_arithmetic_in_float32(backend):
    case = cast(scan_case(2, 40, 16, 8), torch.float32)
    function = functools.partial(
        selective_scan, delta_softplus=True, return_final_state=True, backend=backend
    )
    outside = results(function, case)
    with torch.autocast("cpu", torch.bfloat16):
        inside = results(function, case)
        y = causal_conv1d(case["u"], torch.ones(16, 4), backend=backend)
    assert_close(inside, widened(outside), 1e-6)
    assert torch.equal(y, causal_conv1d(case["u"], torch.ones(16, 4), backend=backend))


def test_meta_tensors_have_shapes():
    case = {k: x.to("meta") for k, x in cast(scan_case(), torch.float32).items()}
    y, state = selective_scan(**case, return_final_state=True)
    assert y.shape == (2, 9, 6)
    assert state.shape == (2, 6, 4)
    assert causal_conv1d(case["u"], torch.empty(6, 4, device="meta")).shape == (2, 9, 6)


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that operators have made and that are still alive; and their peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self._add(x.untyped_storage())
        return out

    def _add(self, storage):
        key = storage._cdata
        if key not in self.known:
            self.known.add(key)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key, size):
        self.known.discard(key)
        self.now -= size


def test_training_memory_of_the_torch_backend_is_bounded():
    """At L = 4096 all that forward and backward allocate is at most twice inputs and output."""
    length, d_inner = 4096, 16
    case = cast(scan_case(1, length, d_inner, 16), torch.float32)
    leaves = {k: x.requires_grad_() for k, x in case.items()}
    inputs = sum(x.nbytes for x in leaves.values())
    with LiveBytes() as memory:
        y = selective_scan(**leaves, delta_softplus=True, backend="torch")
        y.backward(torch.ones_like(y))
    states = length * d_inner * 16 * 4
    assert memory.peak <= 2 * (inputs + y.nbytes)
    assert memory.peak < states


def test_the_short_way_and_the_dispatcher_agree(monkeypatch):
    def both():
        y, state = selective_scan(**case, return_final_state=True)
        return y, state, causal_conv1d(case["u"], torch.ones(16, 4))

    def refuse(*args):
        raise AssertionError("the dispatcher was asked")

    case = cast(scan_case(2, 5, 16, 4), torch.float32)
    with LiveBytes():  # any dispatch mode must see the operators
        watched = both()
    # By import_module, for the package's attributes of these names are the functions.
    monkeypatch.setattr(import_module("mambalab.ops.selective_scan"), "_scan", refuse)
    monkeypatch.setattr(import_module("mambalab.ops.causal_conv1d"), "_conv", refuse)
    for one, other in zip(both(), watched, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(AssertionError, match="the dispatcher was asked"), LiveBytes():
        both()


def test_torchs_default_type_does_not_matter():
    case = cast(scan_case(2, 40, 20, 3), torch.float32)

    def layer(u, delta, A, B, C, D, z, delta_bias, initial_state):
        u = causal_conv1d(u, torch.ones(20, 4, dtype=u.dtype), activation="silu")
        return selective_scan(
            u, delta, A, B, C, D, z, delta_bias, True, initial_state, return_final_state=True
        )

    def everything():
        leaves = [x.detach().requires_grad_() for x in case.values()]
        outputs = layer(*leaves)
        grads = torch.autograd.grad(outputs, leaves, [2 * x.detach() for x in outputs])
        return [*outputs, *grads]

    expected = everything()
    torch.set_default_dtype(torch.float64)
    try:
        found = everything()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
