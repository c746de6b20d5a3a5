"""Our Mamba and transformers' compute the same from the same checkpoint."""

import json

import pytest
import torch

from mambalab import model_settings
from mambalab.generation.decoding import generate
from mambalab.generation.sampling import Sampling
from mambalab.pretrained.export import write
from mambalab.pretrained.layout import Layout
from mambalab.pretrained.load import load
from mambalab.tokenization.tokenizer import Characters
from mambalab.tokenization.vocabulary import Vocabulary

transformers = pytest.importorskip("transformers", reason="the peer of these comparisons")
CPU = torch.device("cpu")
SIZES = [(64, 4, 16, 4), (256, 3, 16, 4), (768, 2, 16, 4), (40, 2, 5, 3)]


def peer(d_model, n_layer, d_state, d_conv, tied, rows=203, noise=0.02):
    """A MambaForCausalLM with random weights; noise makes every parameter count."""
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=rows,
        hidden_size=d_model,
        num_hidden_layers=n_layer,
        state_size=d_state,
        conv_kernel=d_conv,
        layer_norm_epsilon=3e-5,
        tie_word_embeddings=tied,
    )
    model = transformers.MambaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return model


@pytest.fixture
def prompt():
    """(2, 37) random tokens."""
    return torch.randint(203, (2, 37), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_logits_of_theirs(tmp_path, prompt, sizes, tied):
    theirs = peer(*sizes, tied)
    theirs.save_pretrained(tmp_path)
    ours, _ = load(tmp_path, CPU)
    with torch.inference_mode():
        expected = theirs(prompt).logits
        worst = (ours(prompt) - expected).abs().max()
    print(f"{sizes} tied={tied}: {worst:.1e} of {expected.abs().max():.1f}")
    assert worst < 1e-4
    assert (ours.lm_head.weight is ours.backbone.embedding.weight) == tied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("d_model", [64, 256, 768])
def test_logits_of_ours(tmp_path, build_model, d_model, tied):
    changes = {"d_model": d_model, "n_layer": 2, "norm_eps": 1e-4, "tie_embeddings": tied}
    ours = build_model(**changes)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    settings = model_settings(d_state=8, **changes)
    rest = {
        "layout": Layout.hf,
        "tokenizer": Characters(Vocabulary("abcdefghijklmnopq")),
        "card": "",
        "overwrite": False,
    }
    write(tmp_path / "out", ours, settings, **rest)
    theirs, problems = transformers.MambaForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(problems.values())
    tokens = torch.randint(17, (2, 37), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        worst = (theirs.eval()(tokens).logits - ours(tokens)).abs().max()
    print(f"{d_model} tied={tied}: {worst:.1e}")
    assert worst < 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_greedy_generation_is_theirs(tmp_path, prompt, tied):
    theirs = peer(64, 4, 16, 4, tied, noise=0.2)  # with less, it repeats itself
    theirs.save_pretrained(tmp_path)
    ours, _ = load(tmp_path, CPU)
    options = {"max_new_tokens": 200, "min_new_tokens": 200, "do_sample": False}
    expected = theirs.generate(prompt[:1], pad_token_id=0, eos_token_id=None, **options)
    steps = generate(ours, prompt[:1], max_new_tokens=200, rules=Sampling(temperature=0))
    assert torch.cat(list(steps)).tolist() == expected[0, 37:].tolist()
    assert len(set(expected[0, 37:].tolist())) > 20


def test_bfloat16_and_shards(tmp_path, prompt):
    theirs = peer(64, 4, 16, 4, True).bfloat16()
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours, _ = load(tmp_path, CPU)
    with torch.inference_mode():
        expected = theirs.float()(prompt).logits
        assert (ours(prompt) - expected).abs().max() < 1e-4


def test_the_original_layout(tmp_path, prompt):
    """As state-spaces/mamba-130m is laid out: rows padded to a multiple, both tied tensors."""
    theirs = peer(64, 2, 16, 4, True, rows=208)
    theirs.config.layer_norm_epsilon = 1e-5
    theirs.save_pretrained(tmp_path / "hf")
    again = transformers.MambaForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tensors = {n.replace("embeddings", "embedding"): t for n, t in again.state_dict().items()}
    assert {"lm_head.weight", "backbone.embedding.weight"} <= tensors.keys()
    folder = tmp_path / "original"
    folder.mkdir()
    torch.save(tensors, folder / "pytorch_model.bin")
    config = {"d_model": 64, "n_layer": 2, "vocab_size": 203, "ssm_cfg": {}, "rms_norm": True}
    config |= {"residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}
    (folder / "config.json").write_text(json.dumps(config))
    ours, description = load(folder, CPU)
    assert description.rows == 208
    with torch.inference_mode():
        assert (ours(prompt) - again(prompt).logits).abs().max() < 1e-4
