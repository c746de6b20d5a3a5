import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambalab.ops import causal_conv1d
from mambalab.ops.reference import causal_conv1d_reference
from tests.ops.cases import assert_close, identical, results, widened

FAST = ("cpu", "torch")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def conv_case(batch, length, d_inner, taps, *, seed=0, dtype=torch.float32):
    make = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, length, d_inner, generator=make).to(dtype),
        "weight": torch.randn(d_inner, taps, generator=make),
        "bias": torch.randn(d_inner, generator=make),
        "initial_state": torch.randn(batch, d_inner, taps - 1, generator=make).to(dtype),
    }


def conv(backend, activation="silu"):
    return functools.partial(
        causal_conv1d, activation=activation, return_final_state=True, backend=backend
    )


def oracle(case, activation="silu"):
    return results(functools.partial(causal_conv1d_reference, activation=activation), widened(case))


@pytest.mark.parametrize("backend", FAST)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 2, 3, 63, 65, 127, 128, 129, 300]),
    d_inner=st.sampled_from([1, 8, 16, 17, 40]),
    taps=st.sampled_from([1, 2, 3, 4, 7]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    activation=st.sampled_from([None, "silu"]),
    seed=st.integers(0, 1000),
)
def test_agrees_with_the_oracle(backend, batch, length, d_inner, taps, dtype, activation, seed):
    case = conv_case(batch, length, d_inner, taps, seed=seed, dtype=dtype)
    found = results(conv(backend, activation), case)
    assert_close(found, oracle(case, activation), TOLERANCE[dtype])


@pytest.mark.parametrize("backend", FAST)
def test_optional_arguments_can_be_left_out(backend):
    case = conv_case(2, 40, 20, 4)
    for name in ("bias", "initial_state"):
        some = {k: x for k, x in case.items() if k != name}
        assert_close(results(conv(backend), some), oracle(some), 3e-6)


def test_the_first_tap_is_the_oldest():
    x = torch.eye(4)[:, :1].T.unsqueeze(-1)  # an impulse at step 0
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    for backend in (*FAST, "reference"):
        y = causal_conv1d(x, weight, backend=backend)
        assert y.flatten().tolist() == [3.0, 2.0, 1.0, 0.0], backend


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strided_inputs_are_read_where_they_lie(backend, dtype):
    case = conv_case(2, 150, 24, 4, dtype=dtype)
    exact = oracle(case)
    case["x"] = torch.cat([case["x"], case["x"]], dim=-1).chunk(2, dim=-1)[1]
    case["weight"] = case["weight"].t().contiguous().t()
    assert_close(results(conv(backend), case), exact, TOLERANCE[dtype])


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_in_pieces_is_the_same_as_whole_with_gradients(backend):
    cuts = [0, 1, 2, 5, 140, 141]

    def pieces(x, weight, bias, initial_state):
        state, outputs = initial_state, []
        for begin, end in itertools.pairwise(cuts):
            y, state = conv(backend)(x[:, begin:end], weight, bias, initial_state=state)
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    case = conv_case(2, 141, 20, 4)
    assert_close(results(pieces, case), oracle(case), 3e-6)


@pytest.mark.parametrize("backend", FAST)
def test_backward_is_repeatable_bit_for_bit(backend):
    case = conv_case(4, 300, 72, 4)
    assert identical(results(conv(backend), case), results(conv(backend), case))


@pytest.mark.parametrize("backend", FAST)
def test_every_output_is_written(backend, monkeypatch):
    def poisoned(*args, **kwargs):
        fresh = real(*args, **kwargs)
        return fresh.fill_(torch.nan if fresh.is_floating_point() else 255)

    real = torch.empty
    monkeypatch.setattr(torch, "empty", poisoned)
    case = conv_case(2, 130, 20, 4)
    found = results(conv(backend), case)
    monkeypatch.undo()
    assert_close(found, oracle(case), 3e-6)


def test_float64_takes_the_torch_backend():
    case = widened(conv_case(2, 20, 5, 4))
    assert_close(results(conv("auto"), case), oracle(case), 1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 6)}, r"x must be \(B, L, D\) with L >= 1, not \(2, 6\)"),
        ({"x": torch.zeros(2, 9, 6, dtype=torch.int64)}, "x must be floating point"),
        ({"weight": torch.zeros(4, 6)}, r"weight must be \(6, K\), not \(4, 6\)"),
        ({"bias": torch.zeros(4)}, r"bias must be \(6,\), not \(4,\)"),
        ({"initial_state": torch.zeros(2, 6, 4)}, "initial_state must be"),
        ({"activation": "relu"}, "activation must be None or \"silu\", not 'relu'"),
        ({"x": torch.zeros(2, 9, 6).cfloat()}, "x must be floating point"),
        ({"weight": torch.zeros(6, 4).cfloat()}, "weight must be real, not torch.complex64"),
        ({"bias": torch.zeros(6).cdouble()}, "bias must be real, not torch.complex128"),
        ({"initial_state": torch.zeros(2, 6, 3).cfloat()}, "initial_state must be real"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**(conv_case(2, 9, 6, 4) | change))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("value", [-1e38, -1e4, -200.0, -88.0, 1e4])
def test_silu_of_any_size_is_harmless(backend, value):
    case = conv_case(1, 4, 3, 1)
    case["bias"] = torch.full((3,), value)
    assert_close(results(conv(backend), case), oracle(case), 3e-6)


def test_the_state_is_not_a_window_on_the_input():
    for length, d_inner, taps in ((1, 2, 2), (3, 1, 4), (9, 2, 3)):
        x = torch.ones(1, length, d_inner)
        _, state = causal_conv1d(x, torch.ones(d_inner, taps), return_final_state=True)
        x.zero_()
        assert state.eq(1).all()


@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 5, 0)])
def test_nothing_in_nothing_out(shape):
    x = torch.zeros(shape, requires_grad=True)
    y = causal_conv1d(x, torch.ones(shape[2], 4), torch.ones(shape[2]), "silu")
    assert y.shape == x.shape
    y.sum().backward()
