"""Training through a carried state: truncated back-propagation, against float64 loops."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mambalab.models.attention import Attention
from mambalab.models.backbone import MambaBlock
from mambalab.models.mamba import Mamba
from mambalab.models.state import MambaState

PIECES = [[1] * 4 + [20], [24], [5, 18, 1]]


def mamba_loop(p, rank, hidden, conv, ssm):
    """Algorithm 2 token by token in float64; returns outputs and the state after the last."""
    d_state = p["A_log"].shape[1]
    outputs = []
    for t in range(hidden.shape[1]):
        x, z = (hidden[:, t] @ p["in_proj.weight"].T).chunk(2, -1)
        window = torch.cat((conv, x[:, :, None]), 2)
        conv = window[:, :, 1:]
        x = F.silu((window * p["conv1d.weight"][:, 0]).sum(-1) + p["conv1d.bias"])
        low, B, C = (x @ p["x_proj.weight"].T).split([rank, d_state, d_state], -1)
        delta = F.softplus(low @ p["dt_proj.weight"].T + p["dt_proj.bias"])[..., None]
        ssm = torch.exp(delta * -p["A_log"].exp()) * ssm + delta * x[..., None] * B[:, None]
        y = (ssm * C[:, None]).sum(-1) + p["D"] * x
        outputs.append((y * F.silu(z)) @ p["out_proj.weight"].T)
    return torch.stack(outputs, 1), conv, ssm


def attention_loop(p, heads, hidden, keys, values):
    """Causal attention with rotary positions token by token in float64."""
    batch, _, width = hidden.shape
    size = width // heads
    outputs = []
    for t in range(hidden.shape[1]):
        qkv = (hidden[:, t] @ p["in_proj.weight"].T).view(batch, 3, heads, size)
        place = torch.arange(0, size, 2).double() / size
        turn = torch.exp(1j * len(keys) * 10000.0**-place)

        def rotate(x, turn=turn):
            x = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * turn
            return torch.cat((x.real, x.imag), -1)

        keys, values = [*keys, rotate(qkv[:, 1])], [*values, qkv[:, 2]]
        scores = torch.einsum("bhd,mbhd->bhm", rotate(qkv[:, 0]), torch.stack(keys))
        share = (scores / math.sqrt(size)).softmax(-1)
        mixed = torch.einsum("bhm,mbhd->bhd", share, torch.stack(values)).reshape(batch, width)
        outputs.append(mixed @ p["out_proj.weight"].T)
    return torch.stack(outputs, 1), keys, values


def loop(layer, hidden, pieces, detached):
    """Outputs of the plain loop on a layer's weights, the state cut between pieces or not."""
    p = {name: x.detach().double().requires_grad_() for name, x in layer.named_parameters()}
    outputs = []
    mamba = isinstance(layer, Mamba)
    state = [[], []]
    if mamba:
        state = [hidden.new_zeros(2, *shape) for shape in ((64, 3), (64, 8))]
    for piece in hidden.split(pieces, 1):
        if mamba:
            y, *state = mamba_loop(p, layer.dt_rank, piece, *state)
        else:
            y, *state = attention_loop(p, layer.n_head, piece, *state)
        if detached:
            state = [[t.detach() for t in x] if isinstance(x, list) else x.detach() for x in state]
        outputs.append(y)
    return torch.cat(outputs, 1), p


@pytest.mark.parametrize("kind", [Mamba, Attention])
@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("pieces", PIECES)
def test_gradients_through_pieces_are_those_of_a_float64_loop(
    build_settings, kind, detached, pieces
):
    torch.manual_seed(0)
    layer = kind(build_settings(n_head=2))
    hidden = torch.randn(2, 24, 32, requires_grad=True)
    weights = torch.randn(2, 24, 32)
    state, outputs = layer.initial_state(2, 24), []
    for piece in hidden.split(pieces, 1):
        outputs.append(layer(piece, state))
        state = state.detach() if detached else state
    found = torch.cat(outputs, 1)
    (found * weights).sum().backward()

    exact_hidden = hidden.detach().double().requires_grad_()
    expected, exact = loop(layer, exact_hidden, pieces, detached)
    (expected * weights.double()).sum().backward()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    pairs = {name: (x.grad, exact[name].grad) for name, x in layer.named_parameters()}
    pairs["hidden"] = (hidden.grad, exact_hidden.grad)
    for name, (one, other) in pairs.items():
        error = (one.double() - other).norm() / other.norm()
        assert error < 2e-5, f"{name}: off by {error:.0e}"


@pytest.mark.parametrize("pattern", ["M", "A", "MMA", "SF", "MMSF"])
def test_one_backward_for_each_piece_equals_one_for_all(build_model, tokens, pattern):
    """Truncated back-propagation: whether pieces are differentiated at once or one by one."""

    def train(each):
        model = build_model(pattern=pattern)
        state, losses = model.initial_state(2, 24), []
        for piece in tokens.split([7, 1, 16], 1):
            loss = model(piece, state).logsumexp(-1).sum()
            state = state.detach()
            losses.append(loss.detach() if each else loss)
            if each:
                loss.backward()
        if not each:
            sum(losses).backward()
        return [p.grad for p in model.parameters()]

    for one, other in zip(train(True), train(False), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pattern", ["M", "A", "SF"])
def test_decoding_between_pieces_leaves_their_gradients_alone(build_model, tokens, pattern):
    """A sample taken after a piece, without gradients, before its backward."""

    def gradients(sample):
        model = build_model(pattern=pattern)
        state = model.initial_state(2, 24)
        loss = model(tokens[:, :5], state).logsumexp(-1).sum()
        loss = loss + model(tokens[:, 5:9], state).logsumexp(-1).sum()
        if sample:
            for there in (state.detach(), copy.copy(state), state):
                with torch.no_grad():
                    model(tokens[:, 9:10], there)
        loss.backward()
        return [p.grad for p in model.parameters()]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("pattern", ["M", "A", "SF"])
def test_without_gradients_the_state_stays_where_it_is(build_model, tokens, pattern):
    model = build_model(pattern=pattern)
    state = model.initial_state(2, 24)
    tensors = [x for x in vars(state.layers[0]).values() if isinstance(x, torch.Tensor)]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            model(tokens[:, :3], state)
    after = [x for x in vars(state.layers[0]).values() if isinstance(x, torch.Tensor)]
    assert all(one is other for one, other in zip(tensors, after, strict=True))


@pytest.mark.parametrize("pattern", ["M", "A", "SF"])
def test_a_state_from_inference_mode_can_be_trained_on_and_read_on(build_model, tokens, pattern):
    model = build_model(pattern=pattern)
    whole = model(tokens)
    with torch.inference_mode():
        state = model.initial_state(2, 24)
        model(tokens[:, :10], state)
    with torch.no_grad():
        second = model(tokens[:, 10:15], copy.deepcopy(state))
    third = model(tokens[:, 10:], state)
    third.sum().backward()
    torch.testing.assert_close(second, whole[:, 10:15], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(third, whole[:, 10:], atol=1e-4, rtol=1e-4)
    assert all(p.grad is not None for p in model.parameters())


def test_only_some_parameters_are_trained(build_settings):
    """What a frozen projection keeps out of the graph is still needed by the convolution."""
    torch.manual_seed(0)
    block = MambaBlock(build_settings())
    block.requires_grad_(False)
    block.mixer.conv1d.weight.requires_grad_()
    hidden = torch.randn(2, 6, 32)
    state = block.mixer.initial_state(2, 6)
    whole = block(hidden)
    (expected,) = torch.autograd.grad(whole.sum(), block.mixer.conv1d.weight)
    outputs = [block(piece, state) for piece in hidden.split([2, 1, 3], 1)]
    (found,) = torch.autograd.grad(torch.cat(outputs, 1).sum(), block.mixer.conv1d.weight)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_learned_initial_state(build_settings):
    torch.manual_seed(0)
    mixer = Mamba(build_settings())
    zero = mixer.initial_state(2, 5)
    conv, ssm = (torch.zeros_like(x).requires_grad_() for x in (zero.conv, zero.ssm))
    mixer(torch.randn(2, 5, 32), MambaState(conv, ssm)).sum().backward()
    for grad in (conv.grad, ssm.grad):
        assert grad is not None
        assert grad.any()


def test_a_bidirectional_mixer_takes_no_state(build_settings):
    mixer = Mamba(build_settings(bidirectional=True))
    with pytest.raises(ValueError, match="a bidirectional Mamba carries no state"):
        mixer(torch.randn(1, 3, 32), mixer.initial_state(1, 3))


def test_autocast_keeps_the_states_dtypes(build_model, tokens):
    model = build_model(pattern="M")
    state = model.initial_state(2, 24)
    with torch.autocast("cpu", torch.bfloat16):
        sum(model(piece, state).float().sum() for piece in tokens.split([3, 21], 1)).backward()
    assert {state.layers[0].conv.dtype, state.layers[0].ssm.dtype} == {torch.float32}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo reads it
def test_compiled_pieces_carry_gradients(build_model, tokens):
    torch.compiler.reset()
    model = build_model(pattern="MA", n_layer=2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    grads = []
    for run in (model, compiled):
        state = model.initial_state(2, 24)
        loss = sum(run(piece, state).square().sum() for piece in tokens[:, :10].split(5, 1))
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize("pattern", ["M", "A", "SF"])
def test_no_sequences_at_all(build_model, pattern):
    model = build_model(pattern=pattern)
    nothing = torch.zeros(0, 3, dtype=torch.int64)
    assert model(nothing, model.initial_state(0, 6)).shape == (0, 3, 17)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("pattern", ["M", "A"])
def test_checkpointing_over_an_updated_state_is_an_error(build_model, tokens, pattern, reentrant):
    model = build_model(pattern=pattern, n_layer=1)
    state = model.initial_state(2, 48)
    hidden = model.backbone.embedding(tokens)
    y = checkpoint(model.backbone.layers[0], hidden, state.layers[0], use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match="make the state from tensors and return its tensors"):
        y.sum().backward()


def test_checkpointing_of_a_function_of_the_states_tensors(build_settings):
    torch.manual_seed(0)
    layer, hidden = Mamba(build_settings()), torch.randn(2, 8, 32)

    def piece(hidden, conv, ssm):
        state = MambaState(conv, ssm)
        return layer(hidden, state), state.conv, state.ssm

    def gradients(run):
        state = layer.initial_state(2, 8)
        carried, outputs = (state.conv, state.ssm), []
        for part in hidden.split([5, 3], 1):
            y, *carried = run(part, *carried)
            outputs.append(y)
        torch.cat(outputs, 1).square().sum().backward()
        found = [p.grad for p in layer.parameters()]
        layer.zero_grad()
        return found

    twice = gradients(lambda *args: checkpoint(piece, *args, use_reentrant=False))
    for one, other in zip(twice, gradients(piece), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo reads it
def test_compiled_attention_takes_any_length(build_settings):
    torch.compiler.reset()
    layer = Attention(build_settings()).requires_grad_(False)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for length in (9, 5):  # the second time it is compiled for all
        hidden = torch.randn(1, length, 32)
        torch.testing.assert_close(compiled(hidden), layer(hidden))
    torch.compiler.reset()
