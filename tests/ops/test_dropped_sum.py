"""Dropout into a sum: what PyTorch's own passes give, to the last bit."""

import pytest
import torch

from mambalab.models.dropout import Dropout
from mambalab.ops import dropped_sum

SHAPES = [(1,), (5,), (2, 3, 17), (3, 1, 16), (2, 130, 129)]


def both(shape, dtype, p, seed=3):
    """Results and gradients, in one pass and in torch's own."""
    drop = Dropout(p)
    grad = torch.randn(shape)
    found = []
    for way in (drop.add, lambda hidden, x: hidden + drop(x)):
        torch.manual_seed(0)
        hidden = torch.randn(shape).requires_grad_()
        x = torch.randn(shape).to(dtype).requires_grad_()
        torch.manual_seed(seed)
        y = way(hidden, x)
        found.append((y.detach(), *torch.autograd.grad(y, (hidden, x), grad)))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("p", [1e-4, 0.1, 0.9])
def test_one_pass_gives_the_same_bits(shape, dtype, p):
    for one, other in zip(*both(shape, dtype, p), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_numba_it_is_the_same(dtype, monkeypatch):
    monkeypatch.setattr(dropped_sum, "obstacle", lambda *_: "numba is missing")
    for one, other in zip(*both((3, 40), dtype, 0.3), strict=True):
        assert torch.equal(one, other)


def test_the_share_of_what_is_dropped():
    drop = Dropout(0.25)
    y = drop.add(torch.zeros(200_000), torch.ones(200_000))
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert abs(float((y == 0).float().mean()) - 0.25) < 0.005


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_everything_dropped(p):
    y = Dropout(p).add(torch.ones(7), torch.ones(7))
    assert y.tolist() == [2.0 - p] * 7


def test_evaluation_drops_nothing():
    y = Dropout(0.5).eval().add(torch.ones(7), torch.ones(7))
    assert y.tolist() == [2.0] * 7


def test_hooks_are_called():
    drop, seen = Dropout(0.5), []
    drop.register_forward_hook(lambda *_: seen.append(1))
    drop.add(torch.ones(7), torch.ones(7))
    assert seen == [1]


@pytest.mark.parametrize("hidden", [torch.ones(2, 3).double(), torch.ones(3)])
def test_what_does_not_fit_is_added_by_torch(hidden):
    torch.manual_seed(1)
    y = Dropout(0.5).add(hidden, torch.ones(2, 3))
    torch.manual_seed(1)
    assert torch.equal(y, hidden + Dropout(0.5)(torch.ones(2, 3)))


def test_derivatives_of_derivatives():
    drop = Dropout(0.4)
    x = torch.randn(6, requires_grad=True)
    torch.manual_seed(5)
    y = drop.add(x.square(), x**3)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.manual_seed(5)
    factor = drop(torch.ones(6))
    assert torch.allclose(second, 2 + 6 * x * factor)


def test_strided_inputs():
    torch.manual_seed(2)
    hidden, x = torch.randn(5, 8).t(), torch.randn(5, 8).t()
    torch.manual_seed(4)
    y = Dropout(0.3).add(hidden, x)
    torch.manual_seed(4)
    assert torch.equal(y, hidden + Dropout(0.3)(x))


def test_it_compiles_without_a_graph_break():
    drop = Dropout(0.5)
    seen = torch.compile(drop.add, backend="eager", fullgraph=True)(torch.ones(4), torch.ones(4))
    assert set(seen.tolist()) <= {1.0, 3.0}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    draws = torch.randint(-32768, 32768, (3, 5), dtype=torch.int16)
    hidden, x = torch.randn(3, 5).requires_grad_(), torch.randn(3, 5).to(dtype).requires_grad_()
    torch.library.opcheck(torch.ops.mambalab.dropped_sum.default, (hidden, x, draws, 20_000))
    backward = torch.ops.mambalab.dropped_sum_backward.default
    torch.library.opcheck(backward, (torch.randn(3, 5), draws, 20_000, dtype))
