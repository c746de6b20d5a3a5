"""Initialisation of the Mamba mixer, upstream's names, and its mathematics step by step."""

import pytest
import torch
import torch.nn.functional as F

from mambalab.models.mamba import Mamba, dt_rank, parameter_count


def test_names_and_shapes_are_upstreams(build_settings):
    mixer = Mamba(build_settings())
    shapes = {name: tuple(p.shape) for name, p in mixer.named_parameters()}
    assert shapes == {
        "A_log": (64, 8),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (2 + 16, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }


def test_initial_values(build_settings):
    torch.manual_seed(3)
    settings = build_settings(d_model=256, n_layer=16, d_state=16)
    mixer = Mamba(settings)
    expected = torch.arange(1, 17).float().log().expand(512, 16)
    torch.testing.assert_close(mixer.A_log.detach(), expected)
    assert (mixer.D == 1).all()
    delta = F.softplus(mixer.dt_proj.bias.detach().double())
    assert 1e-3 * (1 - 1e-4) <= delta.min() < 2e-3
    assert 0.05 < delta.max() <= 0.1 * (1 + 1e-4)
    log_delta = delta.log()
    middle = (torch.tensor(1e-3).log() + torch.tensor(1e-1).log()) / 2
    assert abs(log_delta.mean() - middle) < 0.2  # log-uniform
    rank = dt_rank(settings)
    assert rank == 16
    assert mixer.dt_proj.weight.abs().max() <= rank**-0.5
    # torch's default bound of out_proj is d_inner^-0.5, here divided by sqrt(n_layer) = 4
    bound = 512**-0.5 / 4
    assert 0.95 * bound < mixer.out_proj.weight.abs().max() <= bound


def test_dt_init_floor_raises_small_deltas(build_settings):
    mixer = Mamba(build_settings(dt_min=1e-5, dt_max=1e-2, dt_init_floor=1e-3))
    assert F.softplus(mixer.dt_proj.bias.detach().double()).min() >= 1e-3 * (1 - 1e-3)


@pytest.mark.parametrize("sizes", [{}, {"d_model": 48, "dt_rank": 5, "expand": 3, "d_conv": 2}])
def test_parameter_count_is_the_real_one(build_settings, sizes):
    settings = build_settings(**sizes)
    real = sum(p.numel() for p in Mamba(settings).parameters())
    assert parameter_count(settings) == real


def test_forward_equals_algorithm_2_in_float64(build_settings):
    torch.manual_seed(5)
    mixer = Mamba(build_settings())
    hidden = torch.randn(2, 9, 32)
    p = {name: tensor.detach().double() for name, tensor in mixer.named_parameters()}
    x, z = (hidden.double() @ p["in_proj.weight"].T).chunk(2, -1)
    padded = F.pad(x.transpose(1, 2), (3, 0))
    x = F.silu(F.conv1d(padded, p["conv1d.weight"], p["conv1d.bias"], groups=64)).transpose(1, 2)
    low, B, C = (x @ p["x_proj.weight"].T).split([2, 8, 8], -1)
    delta = F.softplus(low @ p["dt_proj.weight"].T + p["dt_proj.bias"])
    A = -p["A_log"].exp()
    h = torch.zeros(2, 64, 8, dtype=torch.float64)
    steps = []
    for t in range(9):
        h = (delta[:, t, :, None] * A).exp() * h
        h = h + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
        steps.append((h * C[:, t, None]).sum(-1) + p["D"] * x[:, t])
    expected = (torch.stack(steps, 1) * F.silu(z)) @ p["out_proj.weight"].T
    torch.testing.assert_close(mixer(hidden).double(), expected, atol=2e-6, rtol=2e-5)
