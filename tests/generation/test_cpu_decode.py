"""Fused decoding against plain float64 arithmetic, and the bfloat16 copy of a model."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mambalab.generation.cpu_decode import MAX_BATCH, fused, mamba_step, narrowed
from mambalab.generation.decoding import stepper
from mambalab.models.heads import LanguageModel
from mambalab.ops.cpu import step as cpu_step
from mambalab.settings.model import ScanBackend
from mambalab.spec import ModelSpec

SHAPES = [  # batch, vocab_size, and settings: ragged in every dimension
    (1, 17, {}),
    (3, 1, {"d_model": 1, "n_layer": 1, "d_state": 1, "d_conv": 1, "expand": 1, "dt_rank": 1}),
    (2, 100, {"d_model": 20, "d_state": 5, "d_conv": 2, "expand": 3}),
    (1, 1000, {"d_model": 136, "n_layer": 2, "d_state": 16}),
    (16, 33, {"d_model": 72, "n_layer": 2, "d_state": 40, "d_conv": 5, "dt_rank": 7}),
    (5, 64, {"d_model": 64, "d_state": 16, "tie_embeddings": True}),
]
SETTINGS = [pytest.param(*case, id=str(number)) for number, case in enumerate(SHAPES)]


@pytest.fixture
def build(build_settings):
    """A language model of any vocabulary whose parameters are all far from zero."""

    def build(vocab_size=17, **changes):
        from tests.conftest import NO_DROPOUT

        torch.manual_seed(7)
        settings = build_settings(**changes)
        model = LanguageModel(settings, NO_DROPOUT, ModelSpec(vocab_size=vocab_size, seq_len=24))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1 and not name.endswith("dt_proj.bias"):
                    parameter.add_(0.3 * torch.randn_like(parameter))
                elif "embedding" in name or "lm_head" in name:
                    parameter.normal_(std=0.5)
        return model.eval()

    return build


def start(model, batch):
    """A random state, and tokens."""
    state = model.initial_state(batch, 24)
    for layer in state.layers:
        for values in vars(layer).values():
            if isinstance(values, torch.Tensor):
                values.normal_()
    vocabulary = len(model.lm_head.weight)
    return state, torch.randint(vocabulary, (batch,))


def plain_norm(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def plain_step(model, state, tokens, round_matrix=lambda w: w):
    """One step of a model of Mamba layers only, in float64: logits, and the states behind it."""
    states = []
    hidden = model.backbone.embedding.weight[tokens].double()
    for block, carried in zip(model.backbone.layers, state.layers, strict=True):
        w = mamba_step(block, carried)
        matrices = {n: round_matrix(getattr(w, n)) for n in ("in_proj", "x_proj", "dt_proj")}
        in_proj, x_proj, dt_proj = (m.double() for m in matrices.values())
        n, rank = w.A_log.shape[1], w.dt_proj.shape[1]
        x, z = F.linear(plain_norm(hidden, w.norm.double(), block.norm.eps), in_proj).chunk(2, -1)
        window = torch.cat((carried.conv.double(), x[..., None]), -1)
        u = F.silu((window * w.conv_weight.double()).sum(-1) + w.conv_bias.double())
        low, B, C = F.linear(u, x_proj).split((rank, n, n), -1)
        delta = F.softplus(F.linear(low, dt_proj) + w.dt_bias.double())[..., None]
        keep = torch.exp(delta * -torch.exp(w.A_log.double()))
        ssm = keep * carried.ssm.double() + delta * u[..., None] * B[:, None]
        y = ((ssm * C[:, None]).sum(-1) + w.D.double() * u) * F.silu(z)
        hidden = hidden + F.linear(y, round_matrix(w.out_proj).double())
        states.append((window[..., 1:], ssm))
    features = plain_norm(hidden, model.backbone.norm_f.weight.double(), model.backbone.norm_f.eps)
    return F.linear(features, round_matrix(model.lm_head.weight).double()), states


@pytest.mark.parametrize(("batch", "vocab_size", "changes"), SETTINGS)
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_a_step_equals_float64_arithmetic(build, batch, vocab_size, changes, bf16):
    model = build(vocab_size, **changes)
    state, tokens = start(model, batch)
    round_matrix = (lambda w: w.bfloat16()) if bf16 else (lambda w: w)
    with torch.inference_mode():
        expected, states = plain_step(model, state, tokens, round_matrix)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = fused(model, state, batch)(tokens)
    scale = expected.abs().max().item()
    torch.testing.assert_close(found.double(), expected, atol=2e-6 * (1 + scale), rtol=2e-5)
    for layer, (conv, ssm) in zip(state.layers, states, strict=True):
        torch.testing.assert_close(layer.conv.double(), conv, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(layer.ssm.double(), ssm, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("pattern", ["M", "MA", "AM", "AMMA"])
def test_many_steps_equal_those_of_the_layers(build, pattern):
    model = build(pattern=pattern, n_layer=5)
    state, tokens = start(model, 3)
    if "A" in pattern:  # an empty cache: what stands in it beyond its end is nobody's
        state = model.initial_state(3, 24)
    other = model.initial_state(3, 24)
    for b in range(3):
        other.put(b, state, b)
    with torch.inference_mode():
        step = fused(model, state, 3)
        for _ in range(20):
            found, expected = step(tokens), model.last_logits(tokens[:, None], other)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
            tokens = expected.argmax(-1)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_neither_threads_nor_neighbours_change_a_bit(build, bf16):
    model = build(300, d_model=136, n_layer=2)  # enough weights for a second thread
    found = []
    threads = torch.get_num_threads()
    for count, rows in ((1, slice(0, 4)), (threads, slice(0, 4)), (threads, slice(2, 3))):
        torch.manual_seed(3)
        state, tokens = start(model, 4)
        part = model.initial_state(len(tokens[rows]), 24)
        for target, source in enumerate(range(4)[rows]):
            part.put(target, state, source)
        torch.set_num_threads(count)
        try:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                step = fused(model, part, len(tokens[rows]))
                found.append(torch.stack([step(tokens[rows]) for _ in range(5)]))
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0][:, 2:3], found[2])


def test_there_is_no_fused_step_for_what_it_was_not_made_for(build):
    model = build()
    state = model.initial_state(1, 24)
    many = model.initial_state(MAX_BATCH + 1, 24)
    other = build(scan_backend=ScanBackend.torch)
    hybrid = build(scan_backend=ScanBackend.torch, pattern="MA")
    wide = build().double()
    assert fused(model, many, MAX_BATCH + 1) is None
    assert fused(other, other.initial_state(1, 24), 1) is None
    assert fused(hybrid, hybrid.initial_state(1, 24), 1) is None
    assert fused(wide, wide.initial_state(1, 24), 1) is None
    assert fused(model.train(), state, 1) is None
    assert fused(model.eval(), state, 1) is not None


class Doubled(torch.nn.Linear):
    """A linear layer of a user's, as adapters put in."""

    def forward(self, input):
        return 2 * super().forward(input)


def with_bias(model):
    model.lm_head = torch.nn.Linear(*model.lm_head.weight.shape[::-1])


def with_another_eps(model):
    model.backbone.layers[1].norm.eps = 1e-2


def with_a_forward_put_over(name):
    """As tools for offloading do it: on the object, not on its class."""

    def change(model):
        module = model.get_submodule(name)
        forward = module.forward
        module.forward = lambda *args: 2 * forward(*args)

    return change


def with_a_method_put_over(model):
    mixer = model.backbone.layers[1].mixer
    mix = mixer.mix
    mixer.mix = lambda *args: 2 * mix(*args)


def with_a_weight_of_its_own_kind(model):
    mixer = model.backbone.layers[0].mixer
    mixer.x_proj.weight = torch.nn.Parameter(mixer.x_proj.weight.detach().as_subclass(Weight))


class Weight(torch.Tensor):
    """A tensor that need not have its values in memory, as quantised and distributed ones."""


PLACES = ("layers.0", "layers.1.mixer", "layers.2.mixer.dt_proj", "norm_f", "dropout")
CHANGES = {
    **{f"a forward of {name}": with_a_forward_put_over(f"backbone.{name}") for name in PLACES},
    "a forward of the head": with_a_forward_put_over("lm_head"),
    "a method": with_a_method_put_over,
    "a tensor's own class": with_a_weight_of_its_own_kind,
    "dt_proj without bias": lambda m: setattr(m.backbone.layers[0].mixer.dt_proj, "bias", None),
    "conv1d without bias": lambda m: setattr(m.backbone.layers[2].mixer.conv1d, "bias", None),
    "a hook of dropout": lambda m: m.backbone.dropout.register_forward_hook(lambda *_: None),
    "a layer's own class": lambda m: setattr(
        m.backbone.layers[1].mixer.in_proj, "__class__", Doubled
    ),
    "the head's own class": lambda m: setattr(m.lm_head, "__class__", Doubled),
    "a bias": with_bias,
    "another eps": with_another_eps,
    "a hook": lambda m: m.backbone.layers[0].register_forward_hook(lambda *_: None),
    "a hook before": lambda m: m.backbone.register_forward_pre_hook(lambda *_: None),
    "dropout left on": lambda m: m.backbone.layers[1].dropout.train(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_model_that_was_changed_decodes_layer_by_layer(build, change):
    model = build()
    change(model)
    state, other = (model.initial_state(2, 24) for _ in range(2))
    tokens = torch.tensor([3, 5])
    with torch.inference_mode():
        assert fused(model, state, 2) is None
        found = stepper(model, state, 2)(tokens)
        assert torch.equal(found, model(tokens[:, None], other)[:, -1])


def test_hooks_of_all_modules_are_called(build):
    model, calls = build(), []
    state = model.initial_state(1, 24)
    with (
        nn.modules.module.register_module_forward_hook(lambda *_: calls.append(0)),
        torch.inference_mode(),
    ):
        stepper(model, state, 1)(torch.tensor([3]))
    assert len(calls) > 20
    assert fused(model, state, 1) is not None


@pytest.mark.parametrize(
    "change",
    [lambda x: x.double(), lambda x: x.mT.contiguous().mT],
    ids=["float64", "not contiguous"],
)
def test_a_state_that_the_kernel_cannot_read_goes_through_the_layers(build, change):
    model = build()
    state, other = (model.initial_state(2, 24) for _ in range(2))
    for layer in state.layers:
        layer.ssm = change(layer.ssm)
    tokens = torch.tensor([3, 5])
    with torch.inference_mode():
        found, expected = stepper(model, state, 2)(tokens), stepper(model, other, 2)(tokens)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.layers[0].ssm.float(), other.layers[0].ssm)


def test_torch_default_device_is_not_where_a_step_works(build):
    model = build()
    state, tokens = start(model, 2)
    with torch.inference_mode(), torch.device("meta"):
        assert fused(model, state, 2)(tokens).isfinite().all()


def test_a_large_head_alone_is_worth_a_second_thread(build, monkeypatch):
    shared = []
    run = cpu_step.Kernel.run

    def watched(self, values, tasks, scratch_bytes, parallel):
        if self in cpu_step._KERNELS.values():
            shared.append(parallel)
        run(self, values, tasks, scratch_bytes, parallel)

    monkeypatch.setattr(cpu_step.Kernel, "run", watched)
    for vocab_size in (17, 10_000):
        model = build(vocab_size, pattern="MA", n_layer=2)
        with torch.inference_mode():
            fused(model, model.initial_state(1, 24), 1)(torch.tensor([3]))
    assert shared == [False, True]


@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("pattern", ["M", "MA"])
def test_a_narrowed_model_is_the_model_under_autocast(build, tokens, pattern, tie_embeddings):
    model = build(pattern=pattern, tie_embeddings=tie_embeddings)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    small = narrowed(model)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(small(tokens), model(tokens))
    assert small.backbone.embedding.weight is model.backbone.embedding.weight
    assert small.lm_head.weight.dtype == torch.bfloat16
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
