"""Decoding steps of a small hybrid model, fused and layer by layer."""

import dataclasses

import torch
from torch import Tensor

from mambalab.generation.cpu_decode import fused
from mambalab.models.heads import LanguageModel
from mambalab.spec import ModelSpec
from tests.conftest import NO_DROPOUT, SETTINGS


def decoded() -> list[tuple[Tensor, Tensor]]:
    """Logits of the third step of two sequences, fused and not, in float32 and bfloat16."""

    torch.manual_seed(0)
    changes = {"pattern": "MASF", "n_layer": 4, "d_model": 44, "n_head": 2, "qk_norm": True}
    settings = dataclasses.replace(SETTINGS, **changes)
    model = LanguageModel(settings, NO_DROPOUT, ModelSpec(vocab_size=17, seq_len=24)).eval()
    found = []
    for bf16 in (False, True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            state, other = (model.initial_state(2, 8) for _ in range(2))
            step = fused(model, state, 2)
            assert step is not None
            for tokens in ([3, 5], [1, 16], [2, 2]):
                ours = step(torch.tensor(tokens))
                layers = model.last_logits(torch.tensor(tokens)[:, None], other)
            found.append((ours, layers.float()))
    return found
