"""Functions of vectors against float64."""

import math

import numba
import torch

from mambalab.ops.cpu.simd import LANES, load, store
from mambalab.ops.cpu.simd_functions import apply_gelu


@numba.njit
def gelu(source, target, count):
    for i in range(0, count, LANES):
        store(target + i * 4, apply_gelu(load(source + i * 4)))


def test_gelu_is_that_of_float64_in_both_tails():
    x = torch.cat((torch.linspace(-25, 25, 16 * 300), torch.linspace(-1e-3, 1e-3, 16)))
    y = torch.empty_like(x)
    gelu(x.data_ptr(), y.data_ptr(), len(x))
    wide = x.double()
    expected = 0.5 * wide * torch.special.erfc(-wide / math.sqrt(2))
    torch.testing.assert_close(y.double(), expected, rtol=3e-5, atol=1e-35)  # -12: 1e-32
    near = x.abs() < 4
    torch.testing.assert_close(y[near].double(), expected[near], rtol=2e-6, atol=0)


def test_gelu_of_what_is_no_number_is_none_and_it_does_not_overflow():
    x = torch.zeros(16)
    x[:4] = torch.tensor([float("nan"), float("inf"), 3e38, -3e38])
    y = torch.empty_like(x)
    gelu(x.data_ptr(), y.data_ptr(), len(x))
    assert y[0].isnan()
    assert y[1:3].equal(x[1:3])
    assert y[3].abs() < 1e-30
    assert not y[4:].any()
