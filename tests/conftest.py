"""Small models of every kind, in float32 on the CPU."""

import dataclasses
import os

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command line does, before torch

import pytest
import torch

from mambalab.models.heads import LanguageModel
from mambalab.models.settings import DropoutSettings, ModelSettings, Pooling, ScanBackend
from mambalab.spec import ModelSpec

SETTINGS = ModelSettings(
    name="test",
    _target_="auto",
    pattern="M",
    d_model=32,
    n_layer=3,
    d_state=8,
    d_conv=4,
    expand=2,
    dt_rank="auto",
    dt_min=1e-3,
    dt_max=1e-1,
    dt_init_floor=1e-4,
    scan_backend=ScanBackend.auto,
    bidirectional=False,
    n_head="auto",
    d_ff="auto",
    rope_theta=10000.0,
    norm_eps=1e-5,
    tie_embeddings=False,
    position_embedding=False,
    pooling=Pooling.mean,
    vocab_size=None,
    pretrained=None,
    params={},
)
NO_DROPOUT = DropoutSettings(name="none", p=0.0, ssm_p=0.0, reset_A=True)
SPEC = ModelSpec(vocab_size=17, seq_len=24)


@pytest.fixture
def build_settings():
    """A function from changed settings to ModelSettings."""
    return lambda **changes: dataclasses.replace(SETTINGS, **changes)


@pytest.fixture
def build_model():
    """A function from changed settings to a freshly initialised model in evaluation mode."""

    def build(dropout: DropoutSettings = NO_DROPOUT, **changes) -> LanguageModel:
        torch.manual_seed(0)
        return LanguageModel(dataclasses.replace(SETTINGS, **changes), dropout, SPEC).eval()

    return build


@pytest.fixture
def tokens():
    """(2, 24) random tokens."""
    return torch.randint(17, (2, 24), generator=torch.Generator().manual_seed(1))
