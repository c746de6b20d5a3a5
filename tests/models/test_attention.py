"""Rotary attention against a plain float64 computation; sizes of the baseline."""

import math

import pytest
import torch

from mambalab.models.attention import Attention, d_ff, n_head


@pytest.mark.parametrize(
    ("d_model", "expected"), [(32, 1), (64, 1), (128, 2), (192, 3), (256, 4), (80, 1)]
)
def test_heads_have_64_channels_where_possible(build_settings, d_model, expected):
    assert n_head(build_settings(d_model=d_model)) == expected
    assert n_head(build_settings(d_model=d_model, n_head=2)) == 2


def test_given_ffn_width_is_taken(build_settings):
    assert d_ff(build_settings(d_ff=100)) == 100


@pytest.mark.parametrize("causal", [True, False])
def test_equals_plain_attention_in_float64(build_settings, causal):
    torch.manual_seed(0)
    layer = Attention(build_settings(n_head=2), causal=causal)
    hidden = torch.randn(2, 7, 32)
    qkv = (hidden.double() @ layer.in_proj.weight.detach().double().T).view(2, 7, 3, 2, 16)
    position = torch.arange(7).double()
    angle = position[:, None] * 10000.0 ** (-torch.arange(0, 16, 2).double() / 16)
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]  # (L, 1, 8)

    def rotate(x):
        turned = torch.complex(x[..., :8], x[..., 8:]) * turn
        return torch.cat((turned.real, turned.imag), -1)

    query, key, value = rotate(qkv[:, :, 0]), rotate(qkv[:, :, 1]), qkv[:, :, 2]
    scores = torch.einsum("blhd,bmhd->bhlm", query, key) / math.sqrt(16)
    if causal:
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), float("-inf"))
    mixed = torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), value).reshape(2, 7, 32)
    expected = mixed @ layer.out_proj.weight.detach().double().T
    torch.testing.assert_close(layer(hidden).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("d_model", [1, 33, 65])
def test_an_odd_width_can_be_counted(build_settings, d_model):
    """Mamba takes any width, and is told the size of a Transformer like it."""
    assert n_head(build_settings(d_model=d_model)) == 1
