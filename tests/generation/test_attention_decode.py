"""Fused decoding of attention and FFNs: against float64 arithmetic, and against the layers."""

import pytest
import torch
import torch.nn.functional as F

from mambalab.generation import decoding as generation
from mambalab.generation.cpu_decode import fused
from mambalab.generation.decoding import generate, stepper
from mambalab.generation.sampling import Sampling
from mambalab.models.attention import rotary_angles
from mambalab.ops.cpu.step_layout import CHUNK

ROOM = 2 * CHUNK + 40
SHAPES = [  # settings and batch: heads of less than a vector, of several, ragged ones
    ({"pattern": "SF", "d_model": 32, "n_head": 2}, 1),
    ({"pattern": "SF", "d_model": 12, "n_head": 2, "qk_norm": True, "d_ff": 10}, 3),
    ({"pattern": "SF", "d_model": 2, "n_head": 1, "d_ff": 1, "n_layer": 2}, 2),
    ({"pattern": "SF", "d_model": 144, "n_head": 2, "n_layer": 2, "d_ff": 70}, 4),
    ({"pattern": "SF", "d_model": 130, "n_head": 1, "n_layer": 2, "qk_norm": True}, 1),
    ({"pattern": "A", "d_model": 34, "n_head": 1, "n_layer": 2}, 2),
    ({"pattern": "A", "d_model": 64, "n_head": 1, "n_layer": 1, "tie_embeddings": True}, 5),
]
FILLED = (0, 1, 15, 16, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 39)
"""Positions in a cache before a step."""


def narrow(x, bf16):
    return x.bfloat16().double() if bf16 else x.double()


def start(model, filled, bf16, beyond=0.0):
    """A random cache of so many positions for each sequence, `beyond` after them; and tokens."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        state = model.initial_state(len(filled), ROOM)
    for layer in state.layers:
        if hasattr(layer, "filled"):
            layer.filled = list(filled)
            for cache in (layer.key, layer.value):
                cache.normal_()
                for b, length in enumerate(filled):
                    cache[b, :, length:] = beyond
    return state, torch.randint(17, (len(filled),))


def plain_norm(x, norm):
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()


def turned(x, place, theta):
    """Rotate heads (n_head, head_dim) to a place, by angles of float32 as everywhere."""
    first, second = x.chunk(2, -1)
    cos, sin = (x.flatten().double() for x in rotary_angles(place, 1, x.shape[-1], theta, x.device))
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def plain_attention(mixer, x, cache, b, bf16):
    """One position of sequence b through an attention layer, in float64."""
    place = cache.filled[b]
    heads = F.linear(x, narrow(mixer.in_proj.weight, bf16)).view(3, mixer.n_head, -1)
    query, key, value = heads
    if mixer.q_norm is not None:
        query, key = plain_norm(query, mixer.q_norm), plain_norm(key, mixer.k_norm)
    query, key = (turned(h, place, mixer.rope_theta) for h in (query, key))
    keys = torch.cat((cache.key[b, :, :place].double(), narrow(key, bf16)[:, None]), 1)
    values = torch.cat((cache.value[b, :, :place].double(), narrow(value, bf16)[:, None]), 1)
    share = (keys @ query[..., None] / query.shape[-1] ** 0.5).softmax(1)
    out = F.linear((share * values).sum(1).flatten(), narrow(mixer.out_proj.weight, bf16))
    return out, keys[:, -1], values[:, -1]


def plain_ffn(mlp, x, bf16):
    inner = F.linear(x, narrow(mlp.fc1.weight, bf16))
    if type(mlp).__name__ == "SwiGLU":
        gate, value = inner.chunk(2, -1)
        inner = F.silu(gate) * value
    else:
        inner = F.gelu(inner)
    return F.linear(inner, narrow(mlp.fc2.weight, bf16))


def plain_step(model, state, tokens, bf16):
    """One step of a Transformer in float64: logits (b, v), and new keys and values by layer."""
    logits, kept = [], [[] for _ in state.layers]
    for b, token in enumerate(tokens):
        hidden = model.backbone.embedding.weight[token].double()
        for i, (block, cache) in enumerate(zip(model.backbone.layers, state.layers, strict=True)):
            if hasattr(block, "mixer"):
                x = plain_norm(hidden, block.norm)
                out, *new = plain_attention(block.mixer, x, cache, b, bf16)
                hidden = hidden + out
                kept[i].append(new)
            if hasattr(block, "mlp"):
                norm = block.norm2 if hasattr(block, "mixer") else block.norm
                hidden = hidden + plain_ffn(block.mlp, plain_norm(hidden, norm), bf16)
        features = plain_norm(hidden, model.backbone.norm_f)
        logits.append(F.linear(features, narrow(model.lm_head.weight, bf16)))
    return torch.stack(logits), kept


@pytest.fixture
def build(build_model):
    """A model whose parameters are all far from zero, so that every one of them counts."""

    def build(**changes):
        model = build_model(**changes)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
                else:
                    parameter.normal_(std=parameter.shape[1] ** -0.5)
        return model

    return build


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("changes", "batch"), SHAPES)
def test_a_step_equals_float64_arithmetic(build, changes, batch, bf16):
    model = build(**changes)
    torch.manual_seed(1)
    ragged = [FILLED[(3 * b) % len(FILLED)] for b in range(batch)]
    for filled in ([n] * batch for n in FILLED) if batch == 1 else (ragged, ragged[::-1]):
        state, tokens = start(model, filled, bf16, beyond=float("nan"))  # which nobody may read
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            step = fused(model, state, batch)
            expected, kept = plain_step(model, state, tokens, bf16)
            found = step(tokens)
        scale = expected.abs().max().item()
        atol = 1e-3 * scale if bf16 else 2e-6 * (1 + scale)  # new keys may round otherwise
        torch.testing.assert_close(found.double(), expected, atol=atol, rtol=2e-5)
        for layer, new in zip(state.layers, kept, strict=True):
            for b, (key, value) in enumerate(new):
                assert layer.filled[b] == filled[b] + 1
                allowed = 1e-2 if bf16 else 1e-5
                for cache, row in ((layer.key, key), (layer.value, value)):
                    torch.testing.assert_close(
                        cache[b, :, filled[b]].double(), row, atol=allowed, rtol=allowed
                    )
                    assert cache[b, :, filled[b] + 1 :].isnan().all()


def twice(model, filled, bf16=False):
    """Two states alike, and tokens."""
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        state, tokens = start(model, filled, bf16)
        states.append(state)
    return *states, tokens


PATTERNS = [
    {"pattern": "SF", "qk_norm": True},
    {"pattern": "A"},
    {"pattern": "MASF"},
]


@pytest.mark.parametrize("filled", [(CHUNK - 3,) * 2, (CHUNK - 2, 0, 2 * CHUNK - 1)], ids=str)
@pytest.mark.parametrize("changes", PATTERNS, ids=lambda c: c["pattern"])
def test_many_steps_equal_those_of_the_layers(build, changes, filled):
    model = build(**changes)
    state, other, tokens = twice(model, filled)
    with torch.inference_mode():
        step = fused(model, state, len(filled))
        for _ in range(6):
            found, expected = step(tokens), model.last_logits(tokens[:, None], other)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
            tokens = expected.argmax(-1)
    for mine, theirs in zip(state.layers, other.layers, strict=True):
        for name, values in vars(mine).items():
            if isinstance(values, torch.Tensor):
                wanted = getattr(theirs, name)
                torch.testing.assert_close(values, wanted, atol=1e-4, rtol=1e-4)
        assert getattr(mine, "filled", 0) == getattr(theirs, "filled", 0)


@pytest.mark.parametrize("changes", PATTERNS, ids=lambda c: c["pattern"])
def test_in_bfloat16_it_is_near_the_layers_and_nearer_to_the_truth(build, changes):
    model = build(**changes)
    filled = (40, 40)
    state, other, tokens = twice(model, filled, bf16=True)
    wide, _ = start(model, filled, bf16=False)
    for exact, rounded in zip(wide.layers, state.layers, strict=True):
        for name, values in vars(rounded).items():
            if isinstance(values, torch.Tensor):
                getattr(exact, name).copy_(values)
    with torch.inference_mode():
        truth = model.last_logits(tokens[:, None], wide)
        with torch.autocast("cpu", torch.bfloat16):
            found = fused(model, state, 2)(tokens)
            expected = model.last_logits(tokens[:, None], other).float()
    assert (found - expected).abs().max() < 0.05 * truth.abs().max()
    assert (found - truth).abs().max() < (expected - truth).abs().max()


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_neither_threads_nor_neighbours_change_a_bit(build, bf16):
    model = build(pattern="ASF", d_model=144, n_head=3, n_layer=3)  # worth a second thread
    threads = torch.get_num_threads()
    filled, found = (2 * CHUNK, 5, CHUNK + 1, 0), []
    for count, rows in ((1, (0, 1, 2, 3)), (2, (0, 1, 2, 3)), (2, (2,))):
        torch.manual_seed(3)
        state, tokens = start(model, filled, bf16)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            part = model.initial_state(len(rows), ROOM)
        for target, source in enumerate(rows):
            part.put(target, state, source)
        torch.set_num_threads(count)
        try:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                step = fused(model, part, len(rows))
                found.append(torch.stack([step(tokens[list(rows)]) for _ in range(3)]))
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0][:, 2:3], found[2])


@pytest.mark.parametrize("changes", PATTERNS, ids=lambda c: c["pattern"])
@pytest.mark.parametrize("lengths", [(5,), (1, 30, 24, 7)], ids=str)
def test_greedy_texts_are_those_of_the_layers(build, monkeypatch, changes, lengths):
    """Beyond the window of 24, too, and from a prompt that is longer."""
    model = build(**changes)
    prompts = [torch.arange(n) * 5 % 17 for n in lengths]
    texts, steps = [], []

    def write():
        rules = Sampling(temperature=0)
        texts.append(torch.stack(list(generate(model, prompts, max_new_tokens=40, rules=rules))))

    make = generation.fused
    monkeypatch.setattr(generation, "fused", lambda *args: steps.append(make(*args)) or steps[-1])
    write()
    monkeypatch.setattr(generation, "fused", lambda *_: None)
    write()
    assert len(steps) == 1
    assert steps[0] is not None
    assert torch.equal(*texts)


def test_a_full_cache_is_an_error_and_stays_as_it_is(build):
    model = build(pattern="SF")
    state, tokens = start(model, (3, ROOM), bf16=False)
    before = state.layers[0].key.clone()
    with torch.inference_mode(), pytest.raises(ValueError, match=f"holds {ROOM} positions, not"):
        fused(model, state, 2)(tokens)
    assert torch.equal(state.layers[0].key, before)
    assert state.layers[0].filled == [3, ROOM]


@pytest.mark.parametrize("pattern", ["SF", "M"])
def test_a_state_with_other_tensors_than_before_is_an_error(build, pattern):
    model = build(pattern=pattern)
    with torch.inference_mode():
        state = model.initial_state(1, 24)
        step = fused(model, state, 1)
        step(torch.tensor([3]))
    model.last_logits(torch.tensor([[3]]), state)  # with gradients: the state cannot be written
    with torch.inference_mode(), pytest.raises(RuntimeError, match="make a new decoder"):
        step(torch.tensor([3]))


def twofold(name):
    """Put a method over that of the object which doubles its result."""

    def change(model):
        owner, method = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        before = getattr(owner, method)

        def doubled(*args):
            found = before(*args)
            return 2 * found if isinstance(found, torch.Tensor) else tuple(2 * x for x in found)

        setattr(owner, method, doubled)

    return change


def with_a_bias(model):
    fc1 = model.backbone.layers[1].mlp.fc1
    fc1.bias = torch.nn.Parameter(torch.ones(len(fc1.weight)))


class Weight(torch.Tensor):
    """A tensor that need not have its values in memory, as quantised and distributed ones."""


class Doubled(torch.nn.Linear):
    """A linear layer of a user's, as adapters put in."""

    def forward(self, input):
        return 2 * super().forward(input)


def with_a_weight_of_its_own_kind(model):
    mixer = model.backbone.layers[0].mixer
    mixer.in_proj.weight = torch.nn.Parameter(mixer.in_proj.weight.detach().as_subclass(Weight))


CHANGES = {
    **{
        f"{name} put over": twofold(f"backbone.layers.{name}")
        for name in (
            *("0.forward", "0.mixer.split", "0.mixer.forward", "0.mixer.q_norm.forward"),
            *("1.mlp.forward", "1.mlp.fc2.forward", "1.norm.forward", "4.mlp.forward"),
        )
    },
    "a bias": with_a_bias,
    "a tensor's own class": with_a_weight_of_its_own_kind,
    "a layer's own class": lambda m: setattr(m.backbone.layers[1].mlp.fc1, "__class__", Doubled),
    "another eps": lambda m: setattr(m.backbone.layers[0].mixer.k_norm, "eps", 1e-2),
    "a hook": lambda m: m.backbone.layers[1].register_forward_hook(lambda *_: None),
    "a hook before": lambda m: m.backbone.layers[0].mixer.register_forward_pre_hook(
        lambda *_: None
    ),
    "a mixer of both sides": lambda m: setattr(m.backbone.layers[0].mixer, "causal", False),
    "dropout left on": lambda m: m.backbone.layers[4].dropout.train(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_model_that_was_changed_decodes_layer_by_layer(build, change):
    model = build(pattern="SFMSA", n_layer=5, qk_norm=True)
    state, other = (model.initial_state(2, 24) for _ in range(2))
    tokens = torch.tensor([3, 5])
    with torch.inference_mode():
        assert fused(model, state, 2) is not None
        change(model)
        assert fused(model, state, 2) is None
        found = stepper(model, state, 2)(tokens)
        assert torch.equal(found, model(tokens[:, None], other)[:, -1])


def test_hooks_of_all_modules_are_called(build):
    model, calls = build(pattern="SF"), []
    state = model.initial_state(1, 24)
    with (
        torch.nn.modules.module.register_module_forward_hook(lambda *_: calls.append(0)),
        torch.inference_mode(),
    ):
        stepper(model, state, 1)(torch.tensor([3]))
    assert len(calls) > 15
    assert fused(model, state, 1) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.double(),
        lambda x: x.bfloat16(),
        lambda x: x.mT.contiguous().mT,
        lambda x: x.as_subclass(Weight),
        lambda x: x.requires_grad_(),
    ],
    ids=["float64", "bfloat16", "not contiguous", "own class", "gradient"],
)
def test_a_cache_that_the_kernel_cannot_read_goes_through_the_layers(build, change):
    model = build(pattern="SF")
    state, other, tokens = twice(model, (5, 9))
    state.layers[0].value = change(state.layers[0].value)
    with torch.no_grad():
        assert fused(model, state, 2) is None
        found, expected = stepper(model, state, 2)(tokens), stepper(model, other, 2)(tokens)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
    assert state.layers[0].filled == other.layers[0].filled == [6, 10]
