"""mambalab as a library: quick to import, and its examples are true."""

import doctest
import subprocess
import sys

import pytest
import torch

import mambalab
from mambalab import api, load, model_settings, models
from mambalab.cli import main
from mambalab.errors import UserError
from mambalab.models import Mamba, MambaBlock
from tests.lab import only_run, train


def test_the_examples_are_true():
    found = doctest.testmod(api)
    assert found.attempted >= 9
    assert found.failed == 0


def test_importing_it_is_instant():
    code = (
        "import sys, mambalab, mambalab.models; assert 'torch' not in sys.modules;"
        "assert not {'omegaconf', 'numpy', 'yaml'} & set(sys.modules);"
        "from mambalab.models import Mamba; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("module", [mambalab, models])
def test_names_that_are_not_there(module):
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        module.absent  # noqa: B018


def test_settings_are_those_of_the_command_line():
    settings = model_settings("hybrid", d_model=48, dt_rank=5, norm_eps=1e-6, tie_embeddings=True)
    assert (settings.pattern, settings.d_model, settings.dt_rank) == ("MMA", 48, 5)
    assert (settings.norm_eps, settings.tie_embeddings) == (1e-6, True)
    with pytest.raises(UserError, match=r"model\.d_modle: no such key; did you mean"):
        model_settings(d_modle=3)
    with pytest.raises(UserError, match=r"model\.d_model=0: must be at least 1"):
        model_settings(d_model=0)


def test_a_block_without_dropout():
    block = MambaBlock(model_settings(d_model=32)).train()
    x = torch.randn(2, 9, 32)
    assert torch.equal(block(x), block(x))
    assert torch.equal(block(x), x + block.mixer(block.norm(x)))
    assert isinstance(block.mixer, Mamba)


def test_runs_and_checkpoints_are_loaded_by_name(folder):
    train("model=mamba", "dropout=none", "trainer.max_steps=2")
    assert main.main(["export", "out=exported"]) == 0
    ids = torch.tensor([load().tokenizer.encode("Line 5")])
    sources = [load(name, precision="fp32") for name in ("latest", only_run(folder), "exported")]
    first, *others = [source.model(ids) for source in sources]
    assert all(torch.equal(first, other) for other in others)
    for options, message in (
        ({"name": "absent"}, "pretrained=absent: there is no such folder"),
        ({"precision": "fp8"}, "precision=fp8: choose one of auto, fp32, bf16"),
        ({"tokenizer": "x"}, "tokenizer=x: latest is a run and has its own"),
    ):
        with pytest.raises(UserError, match=message):
            load(**options)
