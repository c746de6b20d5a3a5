"""Models as people change them: adapters, hooks, quantised layers, other dtypes."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from mambalab.models.backbone import AttentionBlock, MambaBlock
from mambalab.models.dropout import NO_DROPOUT
from mambalab.models.heads import Classifier
from mambalab.models.mamba import Mamba
from mambalab.spec import ModelSpec

LINEARS = ("in_proj", "x_proj", "dt_proj", "out_proj")


class Adapter(nn.Module):
    """LoRA as adapters do it: the layer stays inside, a product of low rank is added."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("name", LINEARS)
def test_an_adapter_counts_and_learns(build_settings, name):
    torch.manual_seed(0)
    mixer = Mamba(build_settings()).double().requires_grad_(False)
    hidden = torch.randn(2, 5, 32, dtype=torch.float64)
    before = mixer(hidden)
    setattr(mixer, name, Adapter(getattr(mixer, name)).double())
    after = mixer(hidden)
    after.square().sum().backward()
    adapter = getattr(mixer, name)
    assert adapter.up.weight.grad.any()
    assert adapter.down.weight.grad.any()
    assert (after - before).abs().max() > 1e-8
    adapter.up.weight.data.zero_()  # then it is the layer again
    torch.testing.assert_close(mixer(hidden), before, atol=1e-13, rtol=1e-10)


def test_an_adapter_of_dt_proj_is_a_change_of_its_weight(build_settings):
    torch.manual_seed(0)
    mixer = Mamba(build_settings()).double()
    merged = copy.deepcopy(mixer)
    mixer.dt_proj = Adapter(mixer.dt_proj).double()
    with torch.no_grad():
        merged.dt_proj.weight += mixer.dt_proj.up.weight @ mixer.dt_proj.down.weight
    hidden = torch.randn(2, 5, 32, dtype=torch.float64)
    torch.testing.assert_close(mixer(hidden), merged(hidden), atol=1e-13, rtol=1e-10)


@pytest.mark.parametrize("name", LINEARS)
def test_hooks_are_called_and_may_change_what_passes(build_settings, name):
    torch.manual_seed(0)
    mixer = Mamba(build_settings()).double()
    linear, hidden = (
        getattr(mixer, name),
        torch.randn(2, 5, 32, dtype=torch.float64).requires_grad_(),
    )
    before, calls = mixer(hidden), []
    hooks = [
        linear.register_forward_pre_hook(lambda *_: calls.append("pre")),
        linear.register_forward_hook(lambda *_: calls.append("forward")),
        linear.register_full_backward_hook(lambda *_: calls.append("backward")),
        nn.modules.module.register_module_forward_hook(
            lambda module, *_: calls.append("global") if module is linear else None
        ),
    ]
    seen = mixer(hidden)
    seen.sum().backward()
    assert calls == ["pre", "global", "forward", "backward"]
    torch.testing.assert_close(seen, before, atol=1e-13, rtol=1e-10)
    for hook in hooks:
        hook.remove()
    assert torch.equal(mixer(hidden), before)
    with linear.register_forward_hook(lambda *args: args[-1] * 2):
        assert (mixer(hidden) - before).abs().max() > 1e-8
    linear.forward = lambda x: nn.Linear.forward(linear, x) * 2  # as offloading tools do
    assert (mixer(hidden) - before).abs().max() > 1e-8


def test_a_parametrised_layer_counts(build_settings):
    torch.manual_seed(0)
    mixer = Mamba(build_settings()).double()
    hidden = torch.randn(2, 5, 32, dtype=torch.float64)
    before = mixer(hidden)
    nn.utils.parametrizations.weight_norm(mixer.dt_proj)
    torch.testing.assert_close(mixer(hidden), before, atol=1e-13, rtol=1e-10)
    mixer.dt_proj.parametrizations.weight.original0.data *= 3
    assert (mixer(hidden) - before).abs().max() > 1e-8


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("pattern", ["M", "A", "SF"])
def test_dynamic_quantisation_of_every_linear_layer(build_model, tokens, pattern, state):
    model = build_model(pattern=pattern)
    exact = model(tokens)
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    found = model(tokens, model.initial_state(2, 24) if state else None)
    assert 0 < (found - exact).norm() < 0.2 * exact.norm()


def test_dt_proj_without_bias(build_settings):
    torch.manual_seed(0)
    mixer = Mamba(build_settings()).double()
    mixer.dt_proj.bias.data.zero_()
    hidden = torch.randn(2, 5, 32, dtype=torch.float64)
    expected = mixer(hidden)
    mixer.dt_proj.bias = None
    torch.testing.assert_close(mixer(hidden), expected)


KINDS = {"M": MambaBlock, "A": lambda settings: AttentionBlock(settings, NO_DROPOUT, True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3), (torch.float64, 1e-5)]
)
def test_blocks_and_models_in_other_dtypes(
    build_settings, build_model, tokens, kind, dtype, tolerance
):
    torch.manual_seed(0)
    block = KINDS[kind](build_settings())
    hidden = torch.randn(2, 7, 32)
    expected = block(hidden)
    found = block.to(dtype)(hidden.to(dtype))
    found.square().sum().backward()
    assert found.dtype == dtype
    assert all(p.grad.isfinite().all() for p in block.parameters())
    assert (found - expected).norm() < tolerance * expected.norm()

    model = build_model(pattern=kind)
    expected = model(tokens)
    model = model.to(dtype)
    found = model(tokens)
    state = model.initial_state(2, 24)
    pieces = [model(piece, state) for piece in tokens.split([5, 1, 18], 1)]
    assert found.dtype == dtype
    found.float().square().sum().backward()
    assert all(p.grad.dtype == dtype for p in model.parameters())
    assert (found - expected).norm() < tolerance * expected.norm()
    assert (torch.cat(pieces, 1) - found).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_classifiers_in_other_dtypes(build_settings, dtype):
    settings = build_settings(pattern="MA", bidirectional=True, position_embedding=True)
    spec = ModelSpec(vocab_size=0, input_dim=3, seq_len=9, classes=4)
    model = Classifier(settings, NO_DROPOUT, spec).to(dtype)
    found = model(torch.randn(2, 9, 3, dtype=dtype), torch.tensor([9, 4]))
    assert found.dtype == dtype
    found.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_in_float64_passes_gradcheck(build_settings, kind):
    torch.manual_seed(0)
    block = KINDS[kind](build_settings(d_model=4, n_head=2, d_state=2)).double()
    names = [name for name, _ in block.named_parameters()]
    hidden = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)

    def function(hidden, *weights):
        return torch.func.functional_call(block, dict(zip(names, weights, strict=True)), (hidden,))

    weights = [p.detach().requires_grad_() for p in block.parameters()]
    assert torch.autograd.gradcheck(function, (hidden, *weights))


def test_a_model_in_float64_is_exact(build_model, tokens):
    """In pieces as whole to the last digits: nothing in between is float32."""
    model = build_model(pattern="MA").double()
    state = model.initial_state(2, 24)
    pieces = [model(piece, state) for piece in tokens.split([5, 1, 18], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens), atol=1e-13, rtol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens)


@pytest.mark.parametrize("inputs", ["tokens", "vectors"])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize(
    ("dtype", "autocast", "stream"),
    [
        (torch.float32, True, torch.float32),
        (torch.bfloat16, False, torch.float32),
        (torch.float16, False, torch.float32),
        (torch.float64, False, torch.float64),
        (torch.float64, True, torch.float64),
    ],
)
def test_the_residual_stream_is_never_half(
    build_settings, inputs, positions, dtype, autocast, stream
):
    """Into and out of every layer, in training and in evaluation."""
    settings = build_settings(pattern="MA", n_layer=2, position_embedding=positions)
    sizes = {"vocab_size": 5} if inputs == "tokens" else {"vocab_size": 0, "input_dim": 3}
    dropout = dataclasses.replace(NO_DROPOUT, p=0.1)
    model = Classifier(settings, dropout, ModelSpec(seq_len=9, classes=4, **sizes)).to(dtype)
    seen = []
    for layer in model.backbone.layers:
        layer.register_forward_hook(lambda _, given, out: seen.extend((given[0].dtype, out.dtype)))
    x = torch.zeros(2, 9, dtype=torch.int64)
    if inputs == "vectors":
        x = torch.randn(2, 9, 3, dtype=dtype)
    for training in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            model.train(training)(x)
    assert len(seen) == 8
    assert set(seen) == {stream}
