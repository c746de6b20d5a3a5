"""Packed sequences, single steps and the whole inner layer, each against a plain float64 loop."""

import pytest
import torch
import torch.nn.functional as F

from mambalab.ops.compat import (
    causal_conv1d_fn,
    causal_conv1d_update,
    mamba_inner_fn,
    selective_scan_fn,
    selective_scan_ref,
    selective_state_update,
)

PACKINGS = {
    "one": [[0]],
    "whole": [[4] * 7, [0] * 7],
    "ragged": [[0, 0, 0, 1, 2, 2, 2], [5, 5, 6, 7, 8, 9, 9]],
    "singles": [list(range(7))],
    "long and short": [[0] * 20 + [1, 2, 2] + [3] * 9],
}
packings = pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)


def normal(*shapes, seed=0):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=make, dtype=torch.float64) for s in shapes]


def compare(function, loop, tensors, tolerance=1e-5):
    """Outputs and the gradients of all tensors: ours in float32, the loop's in float64."""

    def everything(run, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in tensors]
        outputs = run(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum((y * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum() for y in outputs)
        return [*outputs, *torch.autograd.grad(total, leaves)]

    pairs = zip(everything(function, torch.float32), everything(loop, torch.float64), strict=True)
    for i, (one, other) in enumerate(pairs):
        assert one.shape == other.shape, i
        assert (one - other).norm() <= tolerance * other.norm().clamp(min=1e-4), i


def conv_loop(x, weight, bias, before=None, silu=True):
    """One step after the other; x (b, d, l)."""
    window = x.new_zeros(*x.shape[:2], weight.shape[-1]) if before is None else before
    steps = []
    for t in range(x.shape[2]):
        window = torch.cat((window, x[:, :, t : t + 1]), 2)[:, :, -weight.shape[-1] :]
        steps.append((window * weight.view(len(weight), -1)).sum(-1) + bias)
    y = torch.stack(steps, 2)
    return F.silu(y) if silu else y


def apart(function, seq_idx, *rows):
    """Run a function on each sequence of packed rows alone; rows (b, ..., l)."""
    outputs = []
    for b, owners in enumerate(seq_idx.tolist()):
        ends = [t + 1 for t in range(len(owners)) if owners[t : t + 1] != owners[t + 1 : t + 2]]
        parts, begin = [], 0
        for end in ends:
            parts.append(function(*(x[b : b + 1, ..., begin:end] for x in rows)))
            begin = end
        outputs.append(torch.cat(parts, -1))
    return torch.cat(outputs)


@packings
@pytest.mark.parametrize("taps", [1, 4])
def test_packed_convolution(packing, taps):
    seq_idx = torch.tensor(packing, dtype=torch.int32)
    batch, length = seq_idx.shape
    tensors = normal((batch, 3, length), (3, taps), (3,))

    def loop(x, weight, bias):
        return apart(lambda x: conv_loop(x, weight, bias), seq_idx, x)

    compare(lambda *t: causal_conv1d_fn(*t, seq_idx, activation="silu"), loop, tensors)


def test_padding_of_packed_rows_gives_nothing():
    x, weight, bias = normal((1, 3, 5), (3, 4), (3,))
    padded = torch.tensor([[-1, -1, 0, 0, -1]])
    y = causal_conv1d_fn(x, weight, bias, padded)
    assert not y[..., [0, 1, 4]].any()
    rubbish = x.where(padded >= 0, float("nan"))
    leaves = [t.clone().requires_grad_() for t in (rubbish, weight, bias)]
    again = causal_conv1d_fn(*leaves, padded)
    assert torch.equal(again, y)
    assert all(g.isfinite().all() for g in torch.autograd.grad(again.sum(), leaves))
    torch.testing.assert_close(y[..., 2:4], conv_loop(x[..., 2:4], weight, bias, silu=False))


def scan_loop(u, delta, A, B, C, D, z, bias, state=None):
    """Algorithm 2 with softplus, time last; B, C (b, n, l)."""
    state = u.new_zeros(u.shape[0], *A.shape) if state is None else state
    steps = []
    for t in range(u.shape[2]):
        step = F.softplus(delta[:, :, t] + bias)[..., None]
        state = torch.exp(step * A) * state + step * B[:, None, :, t] * u[:, :, t, None]
        y = (state * C[:, None, :, t]).sum(-1) + D * u[:, :, t]
        steps.append(y * F.silu(z[:, :, t]))
    return torch.stack(steps, 2), state


def scan_tensors(batch, length, d=4, n=3):
    rows, matrix = (batch, d, length), (batch, n, length)
    tensors = normal(rows, rows, (d, n), matrix, matrix, (d,), rows, (d,))
    tensors[2] = -tensors[2].abs()
    return tensors


@packings
def test_packed_scan(packing):
    seq_idx = torch.tensor(packing)

    def ours(u, delta, A, B, C, D, z, bias):
        return selective_scan_fn(u, delta, A, B, C, D, z, bias, True, True, seq_idx=seq_idx)

    def loop(u, delta, A, B, C, D, z, bias):
        def alone(u, delta, B, C, z):
            y, state = scan_loop(u, delta, A, B, C, D, z, bias)
            ends.append(state)
            return y

        ends, lasts, outputs = [], [], []
        for b in range(len(seq_idx)):
            row = (x[b : b + 1] for x in (u, delta, B, C, z))
            outputs.append(apart(alone, seq_idx[b : b + 1], *row))
            lasts.append(ends[-1])
        return torch.cat(outputs), torch.cat(lasts)

    compare(ours, loop, scan_tensors(*seq_idx.shape))


@pytest.mark.parametrize("length", [1, 7])
def test_the_plain_loop_of_the_scan(length):
    compare(lambda *t: selective_scan_ref(*t, True, True), scan_loop, scan_tensors(2, length))
    assert selective_scan_ref(*scan_tensors(2, length)).dtype == torch.float64


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("dims", [2, 3])
def test_convolution_with_states(length, taps, dims):
    x, weight, bias, before = normal((2, 3, length), (3, taps), (3,), (2, 3, taps - 1))
    weight = weight[:, None] if dims == 3 else weight

    def ours(x, weight, bias, before):
        out = torch.empty_like(before)
        y, states = causal_conv1d_fn(
            x, weight, bias, initial_states=before, return_final_states=True,
            final_states_out=out, activation="swish",
        )  # fmt: skip
        assert states is out
        return y, states

    def loop(x, weight, bias, before):
        joined = torch.cat((before, x), 2)
        return conv_loop(x, weight, bias, before), joined[:, :, length:]

    compare(ours, loop, [x, weight, bias, before])


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize(
    ("taps", "size", "steps"), [(4, 3, 1), (4, 6, 2), (4, 3, 5), (2, 1, 1), (1, 0, 1)]
)
def test_convolution_step_by_step(ring, chosen, taps, size, steps):
    """Steps of any number, from a state that may be longer than needed, a ring, a part of more."""
    inputs, weight, bias = normal((2, 3, 3 * steps), (3, taps), (3,))
    indices = torch.tensor([4, 1], dtype=torch.int32) if chosen else None
    behind = torch.tensor([0, 5], dtype=torch.int32)

    def ours(x, weight, bias):
        state, outputs = x.new_zeros(5 if chosen else 2, 3, size), []
        for i, part in enumerate(x.split(steps, 2)):
            part = part[:, :, 0] if steps == 1 else part
            seen = behind + i * steps if ring else None
            y = causal_conv1d_update(part, state, weight, bias, "silu", seen, indices)
            outputs.append(y if steps > 1 else y[:, :, None])
        if ring or not size:
            return torch.cat(outputs, 2)
        return torch.cat(outputs, 2), state[indices.long()] if chosen else state

    def loop(x, weight, bias):
        y = conv_loop(x, weight, bias)
        return y if ring or not size else (y, F.pad(x, (size, 0))[:, :, -size:])

    compare(ours, loop, [inputs, weight, bias])


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("length", [1, 5])
def test_scan_step_by_step(chosen, length):
    indices = torch.tensor([3, 0]) if chosen else None

    def ours(u, delta, A, B, C, D, z, bias):
        state, outputs = u.new_zeros(4 if chosen else 2, *A.shape), []
        for t in range(length):
            x, dt, b, c, gate = (x[..., t] for x in (u, delta, B, C, z))
            options = {"dt_softplus": True, "state_batch_indices": indices}
            outputs.append(selective_state_update(state, x, dt, A, b, c, D, gate, bias, **options))
        return torch.stack(outputs, 2), state[indices] if chosen else state

    compare(ours, scan_loop, scan_tensors(2, length))


def test_a_step_with_heads_and_groups():
    heads, d, n = 4, 3, 2
    state, x, dt, z, B, C = normal(
        (2, heads, d, n), (2, heads, d), (2, heads, d), (2, heads, d), (2, 2, n), (2, 2, n)
    )
    A, D, bias = normal((heads,), (heads,), (heads,), seed=1)
    A = -A.abs()
    step = F.softplus(dt + bias[:, None])[..., None]
    wide_B, wide_C = (m.repeat_interleave(2, 1)[:, :, None] for m in (B, C))
    expected = torch.exp(step * A[:, None, None]) * state + step * x[..., None] * wide_B
    y = ((expected * wide_C).sum(-1) + D[:, None] * x) * F.silu(z)
    A = A[:, None, None].expand(heads, d, n)  # as Mamba-2 hands them over
    D, bias = (m[:, None].expand(heads, d) for m in (D, bias))
    found = selective_state_update(state, x, dt, A, B, C, D, z, bias, dt_softplus=True)
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(state, expected)


@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_inner_layer(length, given, packed):
    d, n, rank, width = 4, 3, 2, 5
    seq_idx = torch.tensor([[0] * (length // 2) + [1] * (length - length // 2)] * 2)
    seq_idx = seq_idx if packed else torch.zeros_like(seq_idx)
    shapes = (2, 2 * d, length), (d, 1, 4), (d,), (rank + 2 * n, d), (d, rank), (width, d), (width,)
    tensors = normal(*shapes, (d, n), (2, n, length), (d,), (d,), (n,), (n,))

    def ours(xz, conv, bias, x_proj, dt_proj, out, out_bias, A, B, D, dt_bias, B_bias, C_bias):
        return mamba_inner_fn(
            xz, conv, bias, x_proj, dt_proj, out, out_bias, -A.abs(), B if given else None, None,
            D, dt_bias, B_bias, C_bias, seq_idx=seq_idx if packed else None,
        ) + (0 if given else 0 * B.sum()) + (0 * B_bias.sum() if given else 0)  # fmt: skip

    def loop(xz, conv, bias, x_proj, dt_proj, out, out_bias, A, B, D, dt_bias, B_bias, C_bias):
        def alone(xz, given_B):
            x, z = xz.chunk(2, 1)
            x = conv_loop(x, conv, bias)
            low, own_B, C = torch.einsum("rd,bdl->brl", x_proj, x).split([rank, n, n], 1)
            own_B = given_B if given else own_B + B_bias[:, None]
            delta = torch.einsum("dr,brl->bdl", dt_proj, low)
            C = C + C_bias[:, None]
            return scan_loop(x, delta, -A.abs(), own_B, C, D, z, dt_bias)[0]

        y = apart(alone, seq_idx, xz, B)
        unused = 0 * (B_bias.sum() if given else B.sum())
        return torch.einsum("md,bdl->blm", out, y) + out_bias + unused

    compare(ours, loop, tensors)


def test_what_does_not_fit_is_said_in_one_line():
    x, weight, state = torch.randn(2, 3, 5), torch.randn(3, 4), torch.zeros(2, 3, 2)
    owners, matrix = torch.zeros(2, 5, dtype=torch.int32), -torch.rand(3, 2)
    small, one = torch.randn(2, 2), torch.randn(2, 3)
    refused = {
        "seq_idx goes without initial_states": lambda: causal_conv1d_fn(
            x, weight, None, owners, return_final_states=True
        ),
        r"seq_idx must be \(2, 5\)": lambda: causal_conv1d_fn(x, weight, None, owners[:, 1:]),
        "seq_idx must be whole numbers": lambda: causal_conv1d_fn(x, weight, None, owners.float()),
        "needs return_final_states": lambda: causal_conv1d_fn(
            x, weight, final_states_out=torch.zeros(2, 3, 3)
        ),
        "activation must be": lambda: causal_conv1d_fn(x, weight, None, "relu"),
        r"x must be \(B, D, L\)": lambda: causal_conv1d_fn(x[0], weight),
        "weight must be real": lambda: causal_conv1d_fn(x, weight.cfloat(), None, owners),
        r"weight must be \(3, K\)": lambda: causal_conv1d_fn(x, torch.randn(3, 2, 4)),
        r"conv_state must be \(B, D, S\) with S >= 3": lambda: causal_conv1d_update(
            x, state, weight
        ),
        r"x must be \(2, 3\) or": lambda: causal_conv1d_update(
            x[:, :2], torch.zeros(2, 3, 3), weight
        ),
        r"cache_seqlens must be \(2,\)": lambda: causal_conv1d_update(
            x, torch.zeros(2, 3, 3), weight, cache_seqlens=owners
        ),
        r"x must be \(2, 3\)": lambda: selective_state_update(
            state, x, one, matrix, small, small
        ),
        "state must be real": lambda: selective_state_update(
            state.cfloat(), one, one, matrix, small, small
        ),
        "FalconMamba": lambda: mamba_inner_fn(
            x, weight, None, weight, weight, weight, None, matrix, b_rms_weight=small
        ),
        r"xz must be \(B, 2 D, L\)": lambda: mamba_inner_fn(
            x, weight, None, weight, weight, weight, None, matrix
        ),
    }  # fmt: skip
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_learned_state_is_not_overwritten():
    state = torch.zeros(2, 3, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        causal_conv1d_update(torch.randn(2, 3), state, torch.randn(3, 4))
    assert not state.any()


def test_no_rows():
    x, matrix = torch.zeros(0, 3, 5), torch.zeros(0, 2, 5)
    owners = torch.zeros(0, 5, dtype=torch.int64)
    assert causal_conv1d_fn(x, torch.randn(3, 4), None, owners).shape == x.shape
    found = selective_scan_fn(x, x, -torch.rand(3, 2), matrix, matrix, seq_idx=owners)
    assert found.shape == x.shape
