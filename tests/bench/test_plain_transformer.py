"""The plainly written Transformer is the same model as ours."""

import torch

from mambalab.bench.train import _plain
from mambalab.models.heads import LanguageModel


def test_the_plain_stack_computes_what_our_transformer_computes(build_model):
    model: LanguageModel = build_model(pattern="A", d_model=64, tie_embeddings=True)
    plain = _plain(model, torch.device("cpu"))
    names = {
        "backbone.embedding.weight": "embedding.weight",
        "backbone.norm_f.weight": "norm.weight",
    }
    parts = {
        "norm": "norm1", "norm2": "norm2", "mixer.in_proj": "qkv", "mixer.out_proj": "out",
        "mlp.fc1": "up", "mlp.fc2": "down",
    }  # fmt: skip
    for i in range(len(model.backbone.layers)):
        for ours, theirs in parts.items():
            names[f"backbone.layers.{i}.{ours}.weight"] = f"layers.{i}.{theirs}.weight"
    state = model.state_dict()
    del state["lm_head.weight"]  # the embedding's
    assert set(state) == set(names)
    # The plain stack draws another vocabulary: the benchmark's.
    plain.embedding = torch.nn.Embedding(*state["backbone.embedding.weight"].shape)
    plain.load_state_dict({names[k]: v for k, v in state.items()})
    for norm in plain.modules():
        if isinstance(norm, torch.nn.RMSNorm):
            norm.eps = 1e-5
    tokens = torch.randint(17, (2, 24), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(plain(tokens), model(tokens), rtol=1e-4, atol=1e-5)
