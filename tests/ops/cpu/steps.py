"""Decoding steps of a small hybrid model, fused, in bfloat16."""

import dataclasses

import torch
from torch import Tensor

from mambalab.generation.cpu_decode import fused
from mambalab.models.heads import LanguageModel
from mambalab.spec import ModelSpec
from tests.conftest import NO_DROPOUT, SETTINGS

TOKENS = torch.tensor([[3, 1, 2], [5, 16, 2]])


def model() -> LanguageModel:
    """A model with every kind of layer, and heads of more than a vector of any width."""
    torch.manual_seed(0)
    changes = {"pattern": "MASF", "n_layer": 4, "d_model": 68, "n_head": 2, "qk_norm": True}
    settings = dataclasses.replace(SETTINGS, **changes)
    return LanguageModel(settings, NO_DROPOUT, ModelSpec(vocab_size=17, seq_len=24)).eval()


def decoded() -> Tensor:
    """Logits (2, 17) after three steps of two sequences."""
    made = model()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        step = fused(made, made.initial_state(2, 8), 2)
        assert step is not None
        return torch.stack([step(TOKENS[:, i].contiguous()) for i in range(3)])[-1]
