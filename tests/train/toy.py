"""A tiny regression task and a trainer around it, to test the loop without the rest."""

import dataclasses
import json
from pathlib import Path

import torch
from torch import nn

from mambalab.settings.train import OptimKind, OptimSettings, Precision, Schedule, TrainerSettings
from mambalab.train.loop import Trainer

OPTIM = OptimSettings(
    name="adamw",
    lr=1e-2,
    min_lr_ratio=0.1,
    betas=[0.9, 0.95],
    eps=1e-8,
    weight_decay=0.1,
    warmup_steps=3,
    schedule=Schedule.cosine,
    grad_clip=1.0,
)
MUON = dataclasses.replace(
    OPTIM,
    name="muon",
    kind=OptimKind.muon,
    adamw_lr_ratio=0.5,
    momentum=0.95,
    nesterov=True,
    ns_steps=5,
)
LIMITS = TrainerSettings(
    max_steps=20,
    max_epochs=None,
    max_minutes=None,
    log_every=3,
    eval_every=5,
    checkpoint_every=4,
    keep_last=1,
    keep="best",
    ema=None,
    patience=None,
    grad_accum=1,
    compile=False,
    sample_chars=0,
    norms=False,
    profile=False,
)


class ToyTask:
    """Fit y = x @ w; one batch is poisoned with NaN if asked."""

    metric = "val/loss"
    maximize = False
    items_per_batch = 8
    unit = "tokens"
    units_per_batch = 8
    batches_per_epoch = 2.5
    on_eval_batch = None

    def __init__(self, bad_at: int | None = None, name: str = "toy") -> None:
        self.bad_at = bad_at
        self.name = name
        self.seen: list[int] = []

    def fingerprint(self):
        return {"sha256": self.name}

    def batch(self, position):
        self.seen.append(position)
        generator = torch.Generator().manual_seed(position)
        x = torch.randn(8, 4, generator=generator)
        y = x.sum(-1, keepdim=True)
        if position == self.bad_at:
            x[0, 0] = float("nan")
        return x, y

    def part(self, batch, rank, size):
        return tuple(rows.chunk(size)[rank] for rows in batch)

    def loss(self, model, batch):
        x, y = batch
        return (model(x) - y).float().square().mean()

    def evaluate(self, model, split):
        assert split == "val"
        if self.on_eval_batch is not None:
            self.on_eval_batch(0, 1)
        with torch.no_grad():
            model.eval()
            value = float(self.loss(model, self.batch_of_validation()))
            model.train()
        return {"val/loss": value}

    def batch_of_validation(self):
        x = torch.linspace(-1, 1, 32).view(8, 4)
        return x, x.sum(-1, keepdim=True)


class Lines:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def metrics(self, step, values):
        kept = {k: v for k, v in values.items() if not k.startswith("time/")}
        self.rows.append((step, json.loads(json.dumps(kept))))

    def flush(self):
        return {"rows": len(self.rows), "bytes": 0}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.GELU(), nn.Linear(16, 1))


def trainer(
    run_dir: Path,
    task=None,
    stop_after: int | None = None,
    optim=None,
    net: nn.Module | None = None,
    precision: Precision = Precision.fp32,
    callbacks=(),
    **limits,
) -> tuple[Trainer, Lines]:
    """A trainer on the toy task; `stop_after` steps a signal seems to arrive."""
    lines = Lines()
    built: list[Trainer] = []

    run_dir.mkdir(parents=True, exist_ok=True)

    def stop() -> str | None:
        return "SIGTERM" if stop_after is not None and built[0].state.step >= stop_after else None

    runner = Trainer(
        net or model(),
        task or ToyTask(),
        optim=optim or OPTIM,
        settings=dataclasses.replace(LIMITS, **limits),
        run_dir=run_dir,
        recorder=lines,
        device=torch.device("cpu"),
        precision=precision,
        stop_requested=stop,
        callbacks=callbacks,
    )
    built.append(runner)
    return runner, lines
