"""The Triton kernels on a real GPU; `tests/ops/interpreted` has the finer tests."""

import functools

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this machine")

from mambalab.ops import causal_conv1d, selective_scan
from mambalab.ops.reference import causal_conv1d_reference, selective_scan_reference
from mambalab.ops.triton import scan as triton_scan
from mambalab.ops.triton.plans import Plan
from tests.ops.cases import assert_close, cast, identical, results, scan_case, widened

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU"),
]
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
scan = functools.partial(
    selective_scan, delta_softplus=True, return_final_state=True, backend="triton"
)


def on_gpu(tensors):
    return {k: x.cuda() for k, x in tensors.items()}


def run(function, tensors):
    """Results on the GPU, brought back; the random weights of the outputs are made on the CPU."""

    def moved(**inputs):
        y, state = function(**on_gpu(inputs))
        return y.cpu(), state.cpu()

    return results(moved, tensors)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("batch", "length", "d_inner", "d_state", "groups"),
    [(2, 1, 64, 16, None), (2, 257, 100, 16, None), (1, 3000, 48, 8, 2), (3, 65, 34, 64, 1)],
)
def test_the_scan_agrees_with_the_oracle(batch, length, d_inner, d_state, groups, dtype):
    case = cast(scan_case(batch, length, d_inner, d_state, groups), dtype)
    oracle = functools.partial(selective_scan_reference, delta_softplus=True)
    assert_close(run(scan, case), results(oracle, widened(case)), TOLERANCE[dtype])


def test_two_runs_agree_bit_for_bit():
    case = cast(scan_case(2, 2000, 256, 16), torch.bfloat16)
    assert identical(run(scan, case), run(scan, case))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")
def test_tensors_of_another_gpu_than_the_current_one():
    case = cast(scan_case(2, 70, 64, 16), torch.bfloat16)
    x, weight = torch.randn(2, 30, 64), torch.randn(64, 4)
    with torch.cuda.device(0):
        y, state = scan(**{k: x.to("cuda:1") for k, x in case.items()})
        found = causal_conv1d(x.to("cuda:1"), weight.to("cuda:1"), backend="triton")
    assert y.device == torch.device("cuda", 1)
    expected = scan(**on_gpu(case))
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip((y, state), expected, strict=True))
    assert torch.equal(found.cpu(), causal_conv1d(x.cuda(), weight.cuda(), backend="triton").cpu())


@pytest.mark.parametrize("block_d", [16, 32])
def test_rounds_and_programs_of_any_width_agree(block_d):
    case = on_gpu(cast(scan_case(2, 300, 96, 16), torch.float32))
    tensors = [case[k] for k in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    y, _, saved = triton_scan.forward(*tensors, case["initial_state"], True, True)
    one = triton_scan.backward(y, None, *tensors, True, saved)
    plan = Plan(block_d, 3, 168 if block_d == 16 else None)
    other = triton_scan.backward(y, None, *tensors, True, saved, limit=1 << 18, plan=plan)
    for x, z in zip(one, other, strict=True):
        torch.testing.assert_close(x, z, rtol=1e-4, atol=1e-4)


def test_compiled_as_a_whole_graph():
    case = on_gpu(cast(scan_case(2, 64, 64, 16), torch.bfloat16))
    compiled = torch.compile(scan, fullgraph=True)
    torch.testing.assert_close(compiled(**case), scan(**case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_convolution_agrees_with_the_oracle(dtype):
    make = torch.Generator().manual_seed(0)
    x, state = (torch.randn(s, generator=make).to(dtype) for s in ((2, 300, 200), (2, 200, 3)))
    weight, bias = torch.randn(200, 4, generator=make), torch.randn(200, generator=make)
    inputs = [t.cuda().requires_grad_() for t in (x, weight, bias)]
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    y = causal_conv1d(*inputs, "silu", state.cuda(), backend="triton")
    expected = causal_conv1d_reference(*exact, "silu", state.double())[0]
    grad = torch.randn(y.shape, generator=make).to(dtype)
    actual = [y, *torch.autograd.grad(y, inputs, grad.cuda())]
    wanted = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    for one, other in zip(actual, wanted, strict=True):
        error = (one.double().cpu() - other).norm() / other.norm()
        assert float(error) <= TOLERANCE[dtype]
