"""A summary's numbers against counts by hand and against a real step."""

import pytest
import torch

from mambalab import config
from mambalab.runs import model_summary
from mambalab.runs.model_summary import summarise
from mambalab.settings.train import Precision
from mambalab.spec import ModelSpec
from mambalab.tasks.digits import DigitsTask

CPU = torch.device("cpu")
SPEC = ModelSpec(vocab_size=65, seq_len=32)
KINDS = ("reference", "torch")
SMALL = ["task=shakespeare", "model.d_model=16", "model.n_layer=2", "task.batch_size=3"]


def summary(*words, spec=SPEC, precision=Precision.fp32):
    return summarise(config.compose("train", [*SMALL, *words]), spec, CPU, precision)


def test_the_operations_of_mamba_by_hand():
    found = summary("model=mamba", "model.d_state=4")
    d, inner, n, taps, rank = 16, 32, 4, 4, 1
    block = 2 * d * 2 * inner  # in_proj
    block += 2 * taps * inner  # conv1d
    block += 2 * inner * (rank + 2 * n) + 2 * rank * inner  # x_proj, dt_proj
    block += inner * (2 * n + n + 2 * n + 2 * n + 1 + 2)  # exp(delta A), B, h, C h, delta u, D u
    block += 2 * inner * d  # out_proj
    tokens = 3 * 32
    assert [layer.flops for layer in found.layers] == [
        0, block * tokens, block * tokens, 0, 2 * d * 65 * tokens
    ]  # fmt: skip
    assert found.forward == (2 * block + 2 * d * 65) * tokens
    assert found.backward == 2 * found.forward


def test_the_reference_scan_has_the_operations_of_the_others():
    plain, other = (summary("model=mamba", f"model.scan_backend={kind}") for kind in KINDS)
    assert (plain.forward, plain.backward) == (other.forward, other.backward)
    assert plain.layers == other.layers
    assert plain.memory.activations > other.memory.activations


def test_the_operations_of_attention_by_hand():
    found = summary("model=transformer", "model.d_ff=24")
    d, length, tokens = 16, 32, 3 * 32
    square = 2 * 2 * length * d  # q k and the sum of v, no step left out
    attention, ffn = 2 * d * 4 * d + square, 2 * d * 3 * 24
    kinds = [layer.flops for layer in found.layers]
    assert kinds == [0, attention * tokens, ffn * tokens, 0, 2 * d * 65 * tokens]
    backward = 2 * found.forward + square * tokens // 2  # q k once more
    assert found.backward == backward


def test_the_rows_and_the_parameters():
    found = summary("model=mamba", "model.tie_embeddings=true")
    rows = [(layer.name, layer.kind, layer.shape) for layer in found.layers]
    assert rows == [
        ("backbone.embedding", "Embedding", (3, 32, 16)),
        ("backbone.layers.0", "MambaBlock", (3, 32, 16)),
        ("backbone.layers.1", "MambaBlock", (3, 32, 16)),
        ("backbone.norm_f", "RMSNorm", (3, 32, 16)),
        ("lm_head", "Linear", (3, 32, 65)),
    ]
    assert found.layers[-1].parameters == 0  # the embedding's
    assert found.embeddings == 65 * 16
    assert sum(layer.parameters for layer in found.layers) == found.parameters
    assert (found.batch_size, found.tokens) == (3, 96)


@pytest.mark.parametrize(
    ("words", "spec"),
    [
        (("model.position_embedding=true",), ModelSpec(0, 12, input_dim=5, classes=3)),
        (("model=hybrid", "model.n_layer=3"), ModelSpec(9, 12, classes=2, pair=True)),
    ],
)
def test_classifiers(words, spec):
    words = ["task=digits", *SMALL[1:], *words]
    found = summarise(config.compose("train", words), spec, CPU, Precision.bf16)
    assert found.layers[-1].shape == (3, spec.classes)
    assert found.tokens == 3 * 12 * (1 + spec.pair)
    assert sum(layer.parameters for layer in found.layers) == found.parameters


@pytest.mark.parametrize("model", ["mamba", "transformer"])
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_the_memory_is_that_of_a_real_step(model, precision):
    words = [f"model={model}", "dropout=none", "trainer.ema=0.9"]
    found = summary(*words, precision=precision).memory
    settings = config.compose("train", [*SMALL, *words])
    real = model_summary.build_model(settings, SPEC)
    inputs, targets = model_summary._batch(SPEC, 3)
    saved = model_summary._Saved(real)
    hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda x: x)
    with hooks, model_summary.runtime.autocast(CPU, precision):
        model_summary._loss(real(inputs), targets).backward()
    assert found.activations == pytest.approx(saved.bytes, rel=0.02)
    size = 4 * sum(p.numel() for p in real.parameters())
    assert (found.parameters, found.gradients, found.average) == (size, size, size)
    steps = 4 * len(list(real.parameters()))
    assert found.optimiser == 2 * size + steps


def test_muon_holds_one_moment_of_the_matrices():
    adamw, muon = (summary(f"optim={name}").memory.optimiser for name in ("adamw", "muon"))
    assert muon < adamw


def test_dropout_costs_its_masks_and_draws_nothing():
    random = torch.get_rng_state()
    none, some = (summary(f"dropout={name}").memory.activations for name in ("none", "standard"))
    assert some >= none + 3 * 32 * 16 * 3  # a byte for each entry, at the embedding and two blocks
    assert torch.equal(random, torch.get_rng_state())


def test_a_large_model_takes_no_memory():
    found = summary("model.d_model=8192", "model.n_layer=2", "task.batch_size=4096")
    assert found.memory.total > 100e9


def test_what_is_known_before_the_data_is_what_they_say(tmp_path):
    settings = config.compose("train", ["task=digits"]).task
    task = DigitsTask(settings, seed=1, data_dir=tmp_path, data_fraction=1.0)
    before = task.known_spec()
    task.prepare()
    assert before == task.spec
