import functools

import pytest
import torch

from mambalab.ops import selective_scan
from mambalab.ops.reference import selective_scan_reference
from mambalab.ops.triton import scan as triton_scan
from mambalab.ops.triton.plans import Plan
from tests.ops.cases import assert_close, cast, identical, results, scan_case, widened

TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
scan = functools.partial(
    selective_scan, delta_softplus=True, return_final_state=True, backend="triton"
)


def check(tensors, dtype=torch.float32, function=scan, **options):
    tensors = cast(tensors, dtype)
    oracle = functools.partial(selective_scan_reference, **{"delta_softplus": True, **options})
    expected = results(oracle, widened(tensors))
    assert_close(results(function, tensors), expected, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("length", "d_inner", "d_state", "groups"),
    [(1, 5, 16, None), (2, 33, 3, None), (9, 6, 1, 3), (63, 16, 4, 1), (65, 18, 8, 2)],
)
def test_agrees_with_the_oracle(length, d_inner, d_state, groups):
    check(scan_case(1, length, d_inner, d_state, groups))


def test_several_sequences_and_many_states():
    check(scan_case(3, 5, 4, 64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_agrees_in_half_precision(dtype):
    check(scan_case(1, 11, 20, 5), dtype)


def test_optional_arguments_can_be_left_out():
    case = cast(scan_case(1, 7, 6, 3), torch.float32)
    for name in ("D", "z", "delta_bias", "initial_state"):
        check({k: x for k, x in case.items() if k != name})
    bare = {k: case[k] for k in ("u", "A", "B", "C")} | {"delta": case["delta"].abs()}
    check(bare, function=functools.partial(scan, delta_softplus=False), delta_softplus=False)


def test_extreme_steps_and_rates():
    case = scan_case(1, 12, 6, 4)
    case["delta"] = torch.tensor([-14.0, 50.0, 0.0], dtype=torch.float64).repeat(24).view(1, 12, 6)
    case["delta_bias"].zero_()
    case["A"] *= 100
    check(case)


def test_tensors_are_read_where_they_lie():
    case = cast(scan_case(2, 6, 5, 3), torch.float32)
    packed = torch.cat([case["u"], case["z"]], dim=-1)
    turned = case["delta"].transpose(0, 1).contiguous().transpose(0, 1)
    strided = case | {"u": packed[..., :5], "z": packed[..., 5:], "delta": turned}
    with torch.no_grad():
        assert torch.equal(scan(**strided)[0], scan(**case)[0])


def test_pieces_equal_the_whole():
    case = cast(scan_case(1, 70, 5, 3), torch.float32)
    parts = ("u", "delta", "B", "C", "z")

    def in_pieces(**tensors):
        outputs, state = [], tensors.pop("initial_state")
        for span in (slice(0, 1), slice(1, 66), slice(66, 70)):
            piece = {k: x[:, span] if k in parts else x for k, x in tensors.items()}
            y, state = scan(**piece, initial_state=state)
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    check(case, function=in_pieces)


@pytest.mark.parametrize("with_states", [False, True])
def test_segments_side_by_side_change_nothing(with_states):
    case = cast(scan_case(1, 130, 5, 3, groups=1), torch.float32)
    names = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"]
    if not with_states:
        case["initial_state"] = None
    inputs = [case[k] for k in names]
    whole, cut = (triton_scan.forward(*inputs, True, True, parts=n) for n in (1, 3))
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)
    make = torch.Generator().manual_seed(3)
    grad_y, grad_state = (torch.randn(x.shape, generator=make) for x in whole[:2])
    rest = (*inputs[:-1], True, whole[2])
    ending = grad_state if with_states else None
    one, other = (triton_scan.backward(grad_y, ending, *rest, parts=n) for n in (1, 3))
    for name, x, y in zip(one._fields, one, other, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_every_output_is_written(monkeypatch):
    """Fresh memory holds NaN: what a kernel leaves out would show."""

    def poisoned(make):
        def function(*args, **kwargs):
            fresh = make(*args, **kwargs)
            return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

        return function

    case = cast(scan_case(1, 66, 18, 5, groups=2), torch.float32)
    expected = results(scan, case)
    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    assert identical(results(scan, case), expected)


def test_rounds_and_narrow_programs_change_nothing():
    """Partial gradients in little memory: a round a chunk; 16 channels a program."""
    case = cast(scan_case(1, 66, 5, 3, groups=1), torch.float32)
    inputs = [case[k] for k in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    y, state, saved = triton_scan.forward(*inputs, case["initial_state"], True, True)
    make = torch.Generator().manual_seed(3)
    grad_y, grad_state = (torch.randn(x.shape, generator=make) for x in (y, state))
    rest = (grad_y, grad_state, *inputs, True, saved)
    one = triton_scan.backward(*rest)
    other = triton_scan.backward(*rest, limit=1, plan=Plan(16, 2, None))
    for name, x, y in zip(one._fields, one, other, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_what_is_not_wanted_is_not_made():
    case = cast(scan_case(1, 5, 4, 2), torch.float32)
    inputs = [case[k] for k in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    y, state, saved = triton_scan.forward(*inputs, None, True, True, False)
    assert state is None
    assert triton_scan.backward(y, None, *inputs, True, saved, False).initial_state is None


def test_vectors_of_channels_may_have_any_stride():
    case = cast(scan_case(1, 7, 6, 3), torch.float32)
    wide = torch.randn(6, 2, generator=torch.Generator().manual_seed(3))
    check(case | {"D": wide[:, 0], "delta_bias": wide[:, 1]})
    check(case | {"D": torch.tensor(2.0).expand(6)})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter: inf, inf * 0
def test_growth_over_nothing_stays_nothing():
    """A state that grows beyond all floats, but is zero until the last step."""
    u = torch.zeros(1, 192, 1)
    u[:, -1] = 1
    ones = torch.ones(1, 192, 1)
    y, _, _ = triton_scan.forward(
        u, 2 * ones, torch.ones(1, 1), ones, ones, None, None, None, None, False, False, parts=3
    )
    assert y[0, -1].item() == 2.0
    assert not y[0, :-1].any()


@pytest.mark.parametrize(("batch", "d_inner"), [(0, 6), (2, 0)])
def test_nothing_in_nothing_out(batch, d_inner):
    found = results(scan, cast(scan_case(batch, 5, d_inner, 3), torch.float32))
    assert all(not x.any() for x in found.values())
