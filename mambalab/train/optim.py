"""Builds the optimiser, in groups; computes the learning rate from step and progress."""

import math

import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.settings.train import OptimKind, OptimSettings, Schedule
from mambalab.train.muon import MuonWithAdamW, hidden_matrices


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices only, never A_log or D (Mamba), norms or biases."""
    last = name.rsplit(".", 1)[-1]
    return parameter.ndim >= 2 and last not in ("A_log", "D")


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """Build the optimiser over the trainable parameters.

    AdamW has a decayed and an undecayed group. With `optim=muon` the `hidden_matrices` have Muon
    instead (arXiv 2502.16982, with its scale of the steps: 0.2 sqrt(max(rows, columns))).

    Raises:
        UserError: Muon, and the model has no matrix for it, or nothing else.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if settings.kind is not OptimKind.muon:
        return _adamw(named, settings)
    hidden = hidden_matrices(model)
    matrices = [p for _, p in named if p in hidden]
    rest = [(n, p) for n, p in named if p not in hidden]
    if not matrices or not rest:
        lacking = "parameters besides linear maps" if matrices else "linear maps"
        raise UserError(
            f"optim=muon: the model has no {lacking} inside numbered layers (nn.ModuleList, "
            "nn.Sequential); use optim=adamw"
        )
    assert settings.momentum is not None, "optim.check"
    assert settings.ns_steps is not None, "optim.check"
    muon = torch.optim.Muon(
        matrices,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        nesterov=bool(settings.nesterov),
        ns_steps=settings.ns_steps,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = _adamw(rest, settings)
    for group in adamw.param_groups:
        group["lr_ratio"] = settings.adamw_lr_ratio or 1.0
    return MuonWithAdamW(muon, adamw)


def _adamw(named: list[tuple[str, nn.Parameter]], settings: OptimSettings) -> torch.optim.AdamW:
    decayed = [p for n, p in named if decays(n, p)]
    others = [p for n, p in named if not decays(n, p)]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    beta1, beta2 = settings.betas
    fused = all(p.device.type in ("cpu", "cuda") for _, p in named)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(beta1, beta2),
        eps=settings.eps,
        fused=fused,
    )


def step_unless(bad: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser step unless `bad`, a scalar, is 1.

    A fused AdamW, and MuonWithAdamW, look for themselves; an unfused AdamW, as on MPS, cannot.
    """
    if optimizer.defaults.get("fused", True):
        optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue]
    elif bool(bad):
        return
    optimizer.step()


def learning_rate(settings: OptimSettings, step: int, progress: float) -> float:
    """Compute the learning rate of step `step` (from 0) at `progress` in [0, 1] of the run.

    Linear warm-up over `warmup_steps`, times the schedule: cosine or exponential from 1 down to
    `min_lr_ratio` at the end, or constant.
    """
    progress = min(max(progress, 0.0), 1.0)
    low = settings.min_lr_ratio
    if settings.schedule is Schedule.cosine:
        factor = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
    elif settings.schedule is Schedule.exponential:
        factor = low**progress
    else:
        factor = 1.0
    warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    return settings.lr * factor * warmup
