import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mambalab.models.layers import RMSNorm
from mambalab.ops import rms_norm

F32, BF16 = torch.float32, torch.bfloat16
TOLERANCE = {F32: 2e-6, BF16: 5e-3}


def case(shape, dtype, grad_dtype, seed=0):
    make = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(shape, generator=make)).to(dtype)
    weight = torch.randn(shape[-1], generator=make)
    return x, weight, torch.randn(shape, generator=make).to(grad_dtype)


def results(function, x, weight, grad_y):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = function(x, weight)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad_y)]


def oracle(x, weight, grad_y):
    """Written out in float64."""

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    x, weight, grad_y = x.double(), weight.double(), grad_y.double()
    minuend = grad_y * norm(torch.ones_like(x), weight) / (x.square().mean(-1, True) + 1e-5).sqrt()
    summands = (grad_y * norm(x, torch.ones_like(weight))).abs().flatten(0, -2).sum(0)
    return [*results(norm, x, weight, grad_y), minuend, summands]


def close(found, expected, tolerances):
    """The gradient of x is a difference that may cancel (in one channel, all but for eps): its
    error is measured against what is subtracted, which the other part of the sum is as large as.
    That of the weight is a sum over the rows, which may cancel too (of two rows of one channel, up
    to rounding): its error is measured against the sum of what is added, signs left out.
    """
    sizes = expected[0], *expected[3:]
    for one, other, size, tolerance in zip(found, expected[:3], sizes, tolerances, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).norm() <= tolerance * size.norm() + 1e-12


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from([1, 2, 15, 16, 17, 127, 128, 129, 300]),
    width=st.sampled_from([1, 2, 15, 16, 17, 33, 64, 192]),
    dtype=st.sampled_from([F32, BF16]),
    out=st.sampled_from([F32, BF16]),
    seed=st.integers(0, 1000),
)
def test_agrees_with_float64(rows, width, dtype, out, seed):
    x, weight, grad_y = case((rows, width), dtype, out, seed)
    found = results(lambda x, w: rms_norm(x, w, 1e-5, out), x, weight, grad_y)
    assert [t.dtype for t in found] == [out, dtype, F32]
    close(found, oracle(x, weight, grad_y), [TOLERANCE[out], TOLERANCE[dtype], 2e-6])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_take_torchs_own(dtype):
    x, weight, grad_y = case((3, 5, 24), dtype, dtype)
    found = results(lambda x, w: rms_norm(x, w, 1e-5, dtype), x, weight, grad_y)
    bound = 1e-6 if dtype == torch.float64 else 2e-3  # weight is float32 here
    close(found, oracle(x, weight, grad_y), [bound] * 3)


def test_without_numba_torchs_own_takes_its_place(monkeypatch):
    module = sys.modules[rms_norm.__module__]  # the package's attribute is the function
    monkeypatch.setattr(module, "obstacle", lambda *_: "no numba")
    x, weight, grad_y = case((3, 5, 24), BF16, F32)
    found = results(lambda x, w: rms_norm(x, w, 1e-5, F32), x, weight, grad_y)
    close(found, oracle(x, weight, grad_y), [2e-6, 5e-3, 2e-6])


def test_any_layout_and_extreme_rows():
    x, weight, grad_y = case((4, 30, 40), F32, F32)
    x[0, 0] = 0.0
    x[1, 2] *= 1e15
    x[2, 3] *= 1e-15
    turned = x.transpose(0, 1)
    grad_y = grad_y[0, 0].expand(30, 4, 40)
    found = results(lambda x, w: rms_norm(x, w, 1e-5, F32), turned, weight, grad_y)
    close(found, oracle(turned, weight, grad_y), [2e-6] * 3)


def test_nan_stays_in_its_row():
    x, weight, _ = case((20, 40), F32, F32)
    x[3, 5] = float("nan")
    bad = rms_norm(x, weight, 1e-5, F32).isnan().any(1)
    assert bad.nonzero().flatten().tolist() == [3]


def test_no_rows():
    x = torch.empty(0, 8, requires_grad=True)
    rms_norm(x, torch.ones(8), 1e-5, F32).sum().backward()
    assert x.grad is not None


def test_repeats_to_the_last_bit_on_any_number_of_threads():
    x, weight, grad_y = case((700, 192), F32, BF16)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            found.append(results(lambda x, w: rms_norm(x, w, 1e-5, BF16), x, weight, grad_y))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of opcheck's own copies
def test_is_a_proper_operator():
    x, weight, _ = case((5, 24), F32, F32)
    arguments = (x.requires_grad_(), weight.requires_grad_(), 1e-5, BF16)
    torch.library.opcheck(torch.ops.mambalab.rms_norm.default, arguments)


def test_compiles_in_one_graph():
    x, weight, _ = case((5, 24), F32, F32)
    compiled = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(x.requires_grad_(), weight, 1e-5, F32), rms_norm(x, weight, 1e-5, F32)
    )


def test_a_wrong_weight_is_refused():
    with pytest.raises(ValueError, match=r"weight must be \(8,\), not \(7,\)"):
        rms_norm(torch.ones(2, 8), torch.ones(7), 1e-5, F32)


def test_complex_and_whole_numbers_are_refused():
    x, weight = torch.ones(2, 8), torch.ones(8)
    with pytest.raises(ValueError, match="weight must be real"):
        rms_norm(x, weight.cfloat(), 1e-5, F32)
    for wrong in (x.cfloat(), x.long()):
        with pytest.raises(ValueError, match="x must be floating point"):
            rms_norm(wrong, weight, 1e-5, F32)
    with pytest.raises(ValueError, match="dtype must be floating point"):
        rms_norm(x, weight, 1e-5, torch.complex64)


def test_the_layer_gives_what_the_product_behind_it_needs():
    x = torch.randn(2, 3, 16)
    norm, last = RMSNorm(16, 1e-5), RMSNorm(16, 1e-5, wide=True)
    assert norm(x).dtype == F32
    torch.testing.assert_close(norm(x), F.rms_norm(x, (16,), torch.ones(16), 1e-5))
    with torch.autocast("cpu", dtype=BF16):
        assert norm(x).dtype == BF16
        assert last(x).dtype == F32
        assert torch.equal(norm(x), last(x).bfloat16())


def test_torchs_default_type_does_not_matter():
    x, weight, grad_y = case((3, 20), F32, F32)
    x = x * 1e-3  # eps counts
    expected = results(lambda x, w: rms_norm(x, w, 1e-5, F32), x, weight, grad_y)
    torch.set_default_dtype(torch.float64)
    try:
        found = results(lambda x, w: rms_norm(x, w, 1e-5, F32), x, weight, grad_y)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
