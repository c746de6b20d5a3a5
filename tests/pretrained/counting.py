"""A tiny checkpoint that counts: after each token it writes the next one of its vocabulary."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mambalab import model_settings
from mambalab.models.dropout import NO_DROPOUT
from mambalab.models.heads import LanguageModel
from mambalab.pretrained.layout import Layout, config_of
from mambalab.spec import ModelSpec
from tests.tokenization.kinds import KINDS, WORDS


def tensors(rows: int) -> dict[str, torch.Tensor]:
    """Weights of one layer that adds nothing, between a table and the same table moved on by one;
    transformers' names."""
    settings = model_settings(d_model=rows, n_layer=1, d_state=2, tie_embeddings=False)
    model = LanguageModel(settings, NO_DROPOUT, ModelSpec(vocab_size=rows, seq_len=8))
    found = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    found["backbone.layers.0.mixer.out_proj.weight"].zero_()
    del found["backbone.embedding.weight"]
    found["backbone.embeddings.weight"] = torch.eye(rows)
    found["lm_head.weight"] = torch.eye(rows).roll(1, 0).contiguous()
    return found


def write(
    folder: Path, kind: str = "metaspace", beside: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """Write a checkpoint folder with a tokenizer of a kind, config changes and files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = len(WORDS)
    settings = model_settings(d_model=rows, n_layer=1, d_state=2, tie_embeddings=False)
    config = {**config_of(Layout.hf, settings, rows), **changes}
    files = {"config.json": config, **(beside or {})}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    save_file(tensors(rows), folder / "model.safetensors")
    KINDS[kind]().save(str(folder / "tokenizer.json"))
    return folder
