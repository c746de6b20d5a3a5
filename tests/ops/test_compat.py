import pytest
import torch
import torch.nn.functional as F

from mambalab.ops.compat import causal_conv1d_fn, selective_scan_fn

BATCH, CHANNELS, LENGTH, STATES = 2, 6, 9, 3
FORMS = {
    "constant": (CHANNELS, STATES),
    "variable": (BATCH, STATES, LENGTH),
    "grouped": (BATCH, 2, STATES, LENGTH),
}


def by_the_formula(u, delta, A, B, C, D, z, delta_bias):
    """mamba_ssm's definition, step by step, with time last."""
    delta = F.softplus(delta + delta_bias[:, None])

    def at(x, t):  # (B, D, N)
        if x.dim() == 2:
            return x.expand(BATCH, CHANNELS, STATES)
        row = x[..., t] if x.dim() == 4 else x[:, None, :, t]
        return row.repeat_interleave(CHANNELS // row.shape[1], dim=1)

    state, out = u.new_zeros(BATCH, CHANNELS, STATES), []
    for t in range(LENGTH):
        step = delta[:, :, t, None]
        state = torch.exp(step * A) * state + step * at(B, t) * u[:, :, t, None]
        out.append((state * at(C, t)).sum(-1) + D * u[:, :, t])
    return torch.stack(out, dim=-1) * F.silu(z), state


@pytest.mark.parametrize("form_B", FORMS)
@pytest.mark.parametrize("form_C", FORMS)
def test_all_forms_of_B_and_C(form_B, form_C):
    make = torch.Generator().manual_seed(0)
    rows = (BATCH, CHANNELS, LENGTH)
    shapes = [rows, rows, (CHANNELS, STATES), FORMS[form_B], FORMS[form_C]]
    shapes += [(CHANNELS,), rows, (CHANNELS,)]
    exact = [torch.randn(s, generator=make, dtype=torch.float64) for s in shapes]
    exact[2] = -exact[2].abs()
    fast = [x.float().requires_grad_() for x in exact]
    exact = [x.detach().float().double().requires_grad_() for x in exact]
    expected = by_the_formula(*exact)
    actual = selective_scan_fn(*fast, delta_softplus=True, return_last_state=True)
    weights = [torch.randn(x.shape, generator=make) for x in actual]
    expected += torch.autograd.grad(expected, exact, [w.double() for w in weights])
    actual += torch.autograd.grad(actual, fast, weights)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_the_output_keeps_its_dtype():
    u = torch.randn(1, 4, 5, dtype=torch.bfloat16)
    B = torch.randn(1, 2, 5, dtype=torch.bfloat16)
    assert selective_scan_fn(u, u.abs(), -torch.rand(4, 2), B, B).dtype == torch.bfloat16


def test_what_does_not_fit_is_said():
    u, A = torch.randn(1, 4, 5), -torch.rand(4, 2)
    with pytest.raises(ValueError, match=r"B must be \(4, N\), \(1, N, 5\) or \(1, G, N, 5\)"):
        selective_scan_fn(u, u, A, torch.randn(1, 5, 2), torch.randn(1, 2, 5))
    with pytest.raises(ValueError, match="must be real"):
        selective_scan_fn(u, u, A.cfloat(), torch.randn(1, 2, 5), torch.randn(1, 2, 5))
    with pytest.raises(ValueError, match="3 groups of B and C do not divide 4 channels"):
        selective_scan_fn(u, u, A, torch.randn(1, 3, 2, 5), torch.randn(1, 2, 5))


def test_the_convolution_with_time_last():
    x, weight, bias = torch.randn(2, 3, 8), torch.randn(3, 4), torch.randn(3)
    expected = F.silu(F.conv1d(F.pad(x, (3, 0)), weight[:, None], bias, groups=3))
    for name in ("silu", "swish"):
        torch.testing.assert_close(causal_conv1d_fn(x, weight, bias, name), expected)


@pytest.mark.parametrize("form", FORMS)
def test_float32_matrices_stay_float32_beside_bfloat16(form):
    make = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(BATCH, CHANNELS, LENGTH, generator=make).bfloat16() for _ in range(2))
    A = -torch.rand(CHANNELS, STATES, generator=make)
    B, C = (torch.randn(FORMS[form], generator=make) for _ in range(2))

    def state(*tensors):
        return selective_scan_fn(*tensors, delta_softplus=True, return_last_state=True)[1]

    exact = state(*(x.double() for x in (u, delta, A, B, C)))
    found = state(u, delta, A, B, C)
    assert (found.double() - exact).norm() < 1e-5 * exact.norm()
