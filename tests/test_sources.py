"""`experiment=sources/NAME` composes to what the source says, and to a model of its size."""

from typing import Any

import pytest
import torch

from mambalab import config
from mambalab.config import paths
from mambalab.config.identity import to_plain
from mambalab.models.heads import count_parameters
from mambalab.runs import build
from mambalab.spec import ModelSpec
from mambalab.utils.mapping import flatten

ADAM = {"optim.betas": [0.9, 0.999], "optim.warmup_steps": 0}
CONSTANT = ADAM | {"optim.schedule": "constant", "optim.weight_decay": 0.0}
NANOGPT = {
    "optim.lr": 1e-3,
    "optim.min_lr_ratio": 0.1,
    "optim.betas": [0.9, 0.99],
    "optim.weight_decay": 0.1,
    "optim.warmup_steps": 100,
    "model.pattern": "A",
}
BENCH = {
    **ADAM,
    "task.seq_len": 256,
    "model.pattern": "M",
    "model.n_layer": 4,
    "optim.weight_decay": 1e-5,
}
HEADS = {
    **CONSTANT,
    "task.batch_size": 8,
    "task.vocab_size": 16,
    "task.longest": 4096,
    "model.n_layer": 2,
}
# What the sources say: the settings, and the number of parameters within 3 %.
SOURCES: dict[str, tuple[dict[str, Any], int]] = {
    "sources/nanogpt_cpu": (
        {
            **NANOGPT,
            "task.seq_len": 64,
            "task.batch_size": 12,
            "dropout.p": 0.0,
            "model.n_layer": 4,
            "model.n_head": 4,
            "model.d_model": 128,
            "trainer.max_steps": 2000,
        },
        800_000,
    ),
    "sources/nanogpt_gpu": (
        {
            **NANOGPT,
            "task.seq_len": 256,
            "task.batch_size": 64,
            "dropout.p": 0.2,
            "model.n_layer": 6,
            "model.n_head": 6,
            "model.d_model": 384,
            "trainer.max_steps": 5000,
        },
        10_650_000,
    ),
    "sources/small_bench_cifar10": (
        {
            **ADAM,
            "model.d_model": 256,
            "model.n_layer": 6,
            "model.bidirectional": False,
            "model.position_embedding": False,
            "dropout.p": 0.1,
            "optim.lr": 3e-4,
            "optim.weight_decay": 1e-5,
            "task.batch_size": 128,
            "task.augment.rotation": 15.0,
            "task.augment.erasing": 0.2,
            "task.augment.perspective": 0.5,
        },
        2_650_000,
    ),
    "sources/small_bench_shakespeare": (
        BENCH | {"model.d_model": 256, "dropout.p": 0.1, "optim.min_lr_ratio": 0.1},
        1_800_000,
    ),
    "sources/small_bench_overfitting": (
        BENCH | {"model.d_model": 512, "dropout.p": 0.0},
        6_800_000,
    ),
    "sources/julia_dropout": (
        {
            **ADAM,
            "task.windows": "fixed",
            "task.val_fraction": 0.2,
            "task.batch_size": 64,
            "dropout.p": 0.1,
            "dropout.ssm_p": 0.1,
            "optim.weight_decay": 0.0,
            "optim.grad_clip": 1e-2,
            "optim.schedule": "exponential",
            "model.d_model": 128,
        },
        708_000,
    ),
    "sources/paper_selective_copying": (
        {
            **CONSTANT,
            "task.seq_len": 4096,
            "task.vocab_size": 16,
            "task.copies": 16,
            "optim.lr": 1e-4,
            "task.batch_size": 64,
            "model.d_model": 64,
            "model.n_layer": 2,
            "trainer.max_steps": 400_000,
        },
        66_500,
    ),
    "sources/paper_induction_heads": (
        HEADS | {"model.d_model": 64, "optim.lr": 1e-3, "trainer.max_steps": 25 * 8192},
        66_500,
    ),
    "sources/paper_induction_heads_attention": (
        {
            **HEADS,
            "model.d_model": 128,
            "model.n_head": 8,
            "optim.lr": 2e-4,
            "model.pattern": "A",
            "trainer.max_steps": 50 * 8192,
        },
        230_000,
    ),
}


def test_every_source_is_known():
    assert set(SOURCES) == {n for n in paths.options("experiment") if n.startswith("sources/")}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_has_its_own_settings(name):
    cfg = config.compose("train", [f"experiment={name}"])
    found, (expected, parameters) = flatten(to_plain(cfg)), SOURCES[name]
    assert {key: found[key] for key in expected} == expected
    vectors = {"input_dim": 48, "classes": 10} if cfg.task.name == "cifar10" else {}
    tokens = 0 if vectors else getattr(cfg.task, "vocab_size", 65)
    with torch.device("meta"):
        model = build.build_model(cfg, ModelSpec(tokens, 64, **vectors))
    assert abs(count_parameters(model) / parameters - 1) < 0.03, count_parameters(model)
