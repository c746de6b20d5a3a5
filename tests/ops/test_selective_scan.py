import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambalab.ops import selective_scan
from mambalab.ops.eager import scan as torch_scan
from mambalab.ops.reference import selective_scan_reference
from tests.ops.cases import assert_close, cast, identical, results, scan_case, widened

FAST = ("cpu", "torch")
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float64: 1e-12}


def scan(backend, **options):
    return functools.partial(
        selective_scan, delta_softplus=True, return_final_state=True, backend=backend, **options
    )


def oracle(tensors, **options):
    function = functools.partial(selective_scan_reference, delta_softplus=True, **options)
    return results(function, widened(tensors))


def check(backend, tensors, dtype):
    tensors = cast(tensors, dtype)
    assert_close(results(scan(backend), tensors), oracle(tensors), TOLERANCE[dtype])


@pytest.mark.parametrize("backend", FAST)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 2, 31, 32, 33, 63, 65, 100]),
    channels=st.sampled_from([1, 5, 16, 17, 40]),
    d_state=st.sampled_from([1, 3, 4, 16, 17, 33, 64]),
    groups=st.sampled_from([None, 1, 2, 3]),
    seed=st.integers(0, 1000),
)
def test_agrees_with_the_oracle(backend, batch, length, channels, d_state, groups, seed):
    case = scan_case(batch, length, channels * (groups or 1), d_state, groups, seed=seed)
    check(backend, case, torch.float32)


@pytest.mark.parametrize("backend", FAST)
def test_agrees_in_bfloat16(backend):
    check(backend, scan_case(2, 65, 40, 16), torch.bfloat16)
    check(backend, scan_case(2, 33, 34, 3, groups=2), torch.bfloat16)


def test_the_torch_backend_is_exact_in_float64():
    check("torch", scan_case(2, 70, 12, 5, groups=3), torch.float64)


def test_the_oracle_passes_gradcheck():
    tensors = [x.requires_grad_() for x in scan_case(1, 4, 4, 2, groups=2).values()]
    *inputs, state = tensors

    def function(*inputs):
        return selective_scan_reference(*inputs, delta_softplus=True, initial_state=state)

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("backend", FAST)
def test_optional_arguments_can_be_left_out(backend):
    case = cast(scan_case(2, 40, 20, 5), torch.float32)
    for name in ("D", "z", "delta_bias", "initial_state"):
        some = {k: x for k, x in case.items() if k != name}
        assert_close(results(scan(backend), some), oracle(some), 3e-6)
    bare = {k: case[k] for k in ("u", "A", "B", "C")} | {"delta": case["delta"].abs()}
    function = functools.partial(scan(backend), delta_softplus=False)
    exact = results(selective_scan_reference, widened(bare))
    assert_close(results(function, bare), exact, 3e-6)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("raw", [-13.8, 50.0], ids=["delta=1e-6", "delta=50"])
def test_extreme_steps(backend, raw):
    case = scan_case(2, 40, 20, 8)
    case["delta"] = case["delta"] * 0.1 + raw
    case["delta_bias"] *= 0.1
    check(backend, case, torch.float32)


@pytest.mark.parametrize("backend", FAST)
def test_large_decay_rates_neither_overflow_nor_leak(backend):
    case = scan_case(2, 40, 20, 8)
    case["A"] *= 10.0 ** torch.arange(-3, 5)
    case = cast(case, torch.float32)
    assert_close(results(scan(backend), case), oracle(case), 3e-6, floor=0.0)


@pytest.mark.parametrize("backend", FAST)
def test_slow_decays_do_not_drift(backend):
    """A thousand steps that each keep all but a hundred-thousandth of the state.

    Float32 cannot hold the decay better than to 6e-8: a thousand times that is allowed.
    """
    case = scan_case(1, 1000, 16, 4)
    case["A"] = torch.full_like(case["A"], -1e-3)
    case["delta"], case["delta_bias"] = case["delta"] * 0 - 4.6, case["delta_bias"] * 0
    case = cast(case, torch.float32)
    assert_close(results(scan(backend), case), oracle(case), 3e-5)


@pytest.mark.parametrize("backend", FAST)
def test_growing_states_become_infinite_not_wrong(backend):
    case = cast(scan_case(1, 3, 16, 4), torch.float32)
    case["A"] = torch.full_like(case["A"], 100.0)
    case["delta"] = torch.full_like(case["delta"], 3.0)
    _, state = scan(backend)(**case)
    assert not state.isfinite().any()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z", "initial_state"])
def test_nan_is_not_swallowed(backend, name):
    case = cast(scan_case(1, 5, 16, 4), torch.float32)
    case[name] = torch.full_like(case[name], torch.nan)
    y, _ = scan(backend)(**case)
    assert y[:, -1].isnan().all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strided_inputs_are_read_where_they_lie(backend, dtype):
    """As a layer passes them: halves of one projection, slices of another, odd layouts."""
    case = cast(scan_case(2, 35, 24, 4), dtype)
    exact = oracle(case)
    wide = torch.cat([case["u"], case["z"]], dim=-1)
    case["u"], case["z"] = wide.chunk(2, dim=-1)
    narrow = torch.cat([case["B"], case["C"]], dim=-1)
    case["B"], case["C"] = narrow.split(4, dim=-1)
    case["delta"] = case["delta"].transpose(0, 1).contiguous().transpose(0, 1)
    case["A"] = case["A"].t().contiguous().t()
    case["D"] = case["D"].repeat_interleave(2)[::2]
    case["initial_state"] = case["initial_state"].transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(results(scan(backend), case), exact, TOLERANCE[dtype])
    case["u"] = case["u"].transpose(1, 2).contiguous().transpose(1, 2)  # channels not contiguous
    assert_close(results(scan(backend), case), exact, TOLERANCE[dtype])


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_in_pieces_is_the_same_as_whole_with_gradients(backend):
    case = scan_case(2, 75, 20, 4)
    cuts = [0, 1, 2, 40, 75]

    def pieces(initial_state, **case):
        state, outputs = initial_state, []
        for begin, end in itertools.pairwise(cuts):
            part = {
                k: x[:, begin:end] if k in ("u", "delta", "B", "C", "z") else x
                for k, x in case.items()
            }
            y, state = scan(backend)(**part, initial_state=state)
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    case = cast(case, torch.float32)
    assert_close(results(pieces, case), oracle(case), 3e-6)


@pytest.mark.parametrize("backend", FAST)
def test_backward_is_repeatable_bit_for_bit(backend):
    case = cast(scan_case(3, 80, 72, 16), torch.float32)
    assert identical(results(scan(backend), case), results(scan(backend), case))


@pytest.mark.parametrize("backend", FAST)
def test_every_output_is_written(backend, monkeypatch):
    """Fresh memory is poisoned: reading any of it would show as NaN."""

    def poisoned(*args, **kwargs):
        fresh = real(*args, **kwargs)
        return fresh.fill_(torch.nan if fresh.is_floating_point() else 255)

    real = torch.empty
    monkeypatch.setattr(torch, "empty", poisoned)
    case = cast(scan_case(2, 33, 20, 5, groups=2), torch.float32)
    found = results(scan(backend), case)
    monkeypatch.undo()
    assert_close(found, oracle(case), 3e-6)


@pytest.mark.parametrize("backend", FAST)
def test_mixed_dtypes_are_computed_in_float32(backend):
    case = cast(scan_case(2, 20, 16, 4), torch.float32)
    exact = oracle(case | {"u": case["u"].bfloat16()})
    case["u"] = case["u"].bfloat16()
    y, state = scan(backend)(**case)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert_close({"state": state}, {"state": exact["state"]}, 3e-6)


def test_the_final_state_comes_only_when_asked_for():
    case = cast(scan_case(), torch.float32)
    assert isinstance(selective_scan(**case), torch.Tensor)
    y, state = selective_scan(**case, return_final_state=True)
    assert y.shape == (2, 9, 6)
    assert state.shape == (2, 6, 4)


def test_only_some_inputs_need_gradients():
    case = cast(scan_case(), torch.float32)
    case["B"].requires_grad_()
    selective_scan(**case).sum().backward()
    assert case["B"].grad is not None
    assert case["A"].grad is None


def test_gradient_of_the_state_alone():
    case = cast(scan_case(2, 40, 20, 8), torch.float32)
    grads = {}
    for backend in ("cpu", "reference"):
        leaves = {k: x.clone().requires_grad_() for k, x in case.items()}
        scan(backend)(**leaves)[1].square().sum().backward()
        grads[backend] = {k: leaves[k].grad for k in ("u", "delta", "A", "B", "initial_state")}
    assert_close(grads["cpu"], widened(grads["reference"]), 3e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(2, 6)}, r"u must be \(B, L, D\) with L >= 1, not \(2, 6\)"),
        ({"u": torch.zeros(2, 0, 6)}, "u must be"),
        ({"u": torch.zeros(2, 9, 6, dtype=torch.int64)}, "u must be floating point"),
        ({"delta": torch.zeros(2, 9, 5)}, r"delta must be \(2, 9, 6\), not \(2, 9, 5\)"),
        ({"A": torch.zeros(4, 6)}, r"A must be \(6, N\)"),
        ({"B": torch.zeros(2, 9, 4, 4)}, "4 groups of B do not divide 6 channels"),
        ({"C": torch.zeros(2, 9, 1, 4)}, "C must be"),
        ({"D": torch.zeros(4)}, "D must be"),
        ({"z": torch.zeros(2, 9, 12)}, "z must be"),
        ({"delta_bias": torch.zeros(1)}, "delta_bias must be"),
        ({"initial_state": torch.zeros(2, 4, 6)}, "initial_state must be"),
        ({"delta": torch.zeros(2, 9, 6, device="meta")}, "delta is on meta but u on cpu"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    case = cast(scan_case(), torch.float32) | change
    with pytest.raises(ValueError, match=message):
        selective_scan(**case)


@pytest.mark.parametrize("backend", FAST)
def test_gates_of_any_size_are_harmless(backend):
    """silu(z) is z or nothing at the ends of the range, also where z masks with the least float."""
    case = cast(scan_case(1, 3, 4, 2), torch.float32)
    for value in (-1e38, -1e4, -200.0, -88.0, 1e4):
        case["z"] = torch.full_like(case["u"], value)
        assert_close(results(scan(backend), case), oracle(case), 3e-6)
    case = cast(case, torch.bfloat16)
    case["z"] = torch.full_like(case["u"], torch.finfo(torch.bfloat16).min)
    assert scan(backend)(**case)[0].float().abs().max() < 1e-30


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("batch", "d_inner"), [(0, 6), (2, 0)])
def test_nothing_in_nothing_out(backend, batch, d_inner):
    case = cast(scan_case(batch, 5, d_inner, 3), torch.float32)
    found = results(scan(backend), case)
    assert all(not x.any() for x in found.values())


def test_gradients_of_the_torch_backend_lie_as_its_fake_says():
    """inductor relies on the strides; opcheck does not look at them."""
    case = cast(scan_case(1, 5, 6, 3), torch.float32)
    case["A"] = case["A"].t().contiguous().t()
    grads = torch_scan.backward(
        case["u"], None, *(case[k] for k in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")),
        True, torch_scan.forward(*case.values(), True, True)[2],
    )  # fmt: skip
    assert grads.A.is_contiguous()


def test_complex_tensors_are_refused():
    case = cast(scan_case(1, 5, 6, 3), torch.float32)
    with pytest.raises(ValueError, match="A, B and C must be real"):
        selective_scan(**(case | {"A": case["A"].to(torch.complex64)}))


@pytest.mark.parametrize("backend", [*FAST, "reference"])
@pytest.mark.parametrize("name", scan_case())
def test_no_argument_may_be_complex(backend, name):
    case = cast(scan_case(1, 5, 6, 3), torch.float32)
    case[name] = case[name].to(torch.complex64)
    with pytest.raises(ValueError, match=r"must be real|u must be floating point"):
        selective_scan(**case, backend=backend)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", ["B", "C"])
def test_infinity_spreads_as_in_the_oracle(backend, name):
    case = cast(scan_case(2, 40, 20, 5), torch.float32)
    case[name][0, 3, 2] = torch.inf
    y, state = scan(backend)(**case)
    exact_y, exact_state = selective_scan_reference(**widened(case), delta_softplus=True)
    for one, other in ((y, exact_y), (state, exact_state)):
        assert torch.equal(one.isfinite(), other.isfinite())
        assert torch.equal(one.isnan(), other.isnan())


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_expanded_tensors(backend):
    case = cast(scan_case(2, 40, 20, 5), torch.float32)

    def expanded(u, A, B, D):
        rows, matrix = u.expand(2, 40, 20), B.expand(2, 40, 5)
        return scan(backend)(rows, rows, A.expand(20, 5), matrix, matrix, D.expand(20), rows)

    def exact(u, A, B, D):
        u, A, B, D = u.expand(2, 40, 20), A.expand(20, 5), B.expand(2, 40, 5), D.expand(20)
        return selective_scan_reference(u, u, A, B, B, D, u, delta_softplus=True)

    small = {"u": case["u"][:1, :1], "A": case["A"][:1], "B": case["B"][:1], "D": case["D"][:1]}
    assert_close(results(expanded, small), results(exact, widened(small)), 3e-6)
