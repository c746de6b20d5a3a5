"""Settings of optimiser, trainer and tracking (no torch: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING

from mambalab.errors import UserError
from mambalab.settings.rules import NAME, NAME_HINT, option


class Schedule(Enum):
    """Course of the learning rate after warm-up."""

    cosine = "cosine"
    exponential = "exponential"
    constant = "constant"


class OptimKind(Enum):
    """Rule by which gradients become steps."""

    adamw = "adamw"
    muon = "muon"


class Strategy(Enum):
    """How several processes train one model."""

    ddp = "ddp"
    fsdp2 = "fsdp2"


class Precision(Enum):
    """Arithmetic of matrix products; parameters and states stay float32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Resume(Enum):
    """What to do when the run folder already holds a run."""

    auto = "auto"
    never = "never"
    must = "must"


class TrackingKind(Enum):
    """Where metrics go besides the terminal."""

    mlflow = "mlflow"
    wandb = "wandb"
    tensorboard = "tensorboard"
    jsonl = "jsonl"
    none = "none"


@dataclass
class OptimSettings:
    """AdamW, or Muon with AdamW, and the course of the learning rate."""

    name: str = option("name of the optimiser preset", match=NAME, hint=NAME_HINT)
    kind: OptimKind | None = option(
        "adamw, or muon: Muon for the matrices of layers, AdamW for the rest; null = adamw"
    )
    lr: float = option("peak learning rate", gt=0)
    adamw_lr_ratio: float | None = option(
        "muon: what AdamW trains has the learning rate lr * adamw_lr_ratio; null = 1", gt=0
    )
    min_lr_ratio: float = option("the schedule ends at lr * min_lr_ratio", ge=0, le=1)
    betas: list[float] = option("AdamW's two averaging coefficients", length=2, ge=0, lt=1)
    eps: float = option("AdamW's epsilon", gt=0)
    weight_decay: float = option("decay of matrices (never of A_log, D, norms, biases)", ge=0)
    warmup_steps: int = option("steps of linear warm-up", ge=0)
    schedule: Schedule = option("course of the learning rate after warm-up")
    grad_clip: float | None = option("largest gradient norm; null = no clipping", gt=0)
    momentum: float | None = option("muon: share of the past in the average gradient", ge=0, lt=1)
    nesterov: bool | None = option("muon: look one step ahead of the average gradient")
    ns_steps: int | None = option("muon: Newton-Schulz iterations of a step", ge=1, lt=100)

    def __post_init__(self) -> None:
        """Turn adamw into null: a run with either is the same as one of before there was Muon."""
        self.kind = OptimKind.muon if self.kind is OptimKind.muon else None

    def check(self) -> None:
        """Raise UserError for values that do not go together."""
        for name in ("momentum", "nesterov", "ns_steps", "adamw_lr_ratio"):
            value = getattr(self, name)
            if self.kind is None and value not in (None, MISSING):
                raise UserError(
                    f"optim.{name}={value}: AdamW has no such thing; take optim=muon, or leave it "
                    "out"
                )
            if self.kind is not None and value is None and name != "adamw_lr_ratio":
                raise UserError(f"optim.{name}=null: Muon needs a value; take it from optim=muon")
        if self.schedule is Schedule.exponential and self.min_lr_ratio == 0:
            raise UserError(
                "optim.min_lr_ratio=0: an exponential schedule never reaches 0, "
                "give a ratio above 0 or optim.schedule=cosine"
            )


@dataclass
class TrainerSettings:
    """How long to train and how often to look."""

    max_steps: int | None = option("stop after this many optimiser steps; null = no limit", ge=1)
    max_epochs: float | None = option(
        "stop after this many passes over the training data; null = no limit", gt=0
    )
    max_minutes: float | None = option(
        "stop after this many minutes of training; null = no limit", gt=0
    )
    log_every: int = option("steps between points of the training curve", ge=1)
    eval_every: int = option("steps between evaluations of the validation split", ge=1)
    checkpoint_every: int = option("steps between checkpoints (the end writes one, too)", ge=1)
    keep_last: int | None = option(
        "checkpoints kept to go on from: the newest and those before it; null = 1", ge=1
    )
    keep: str = option(
        "weights that stay, besides what resuming needs: best, or also those of every checkpoint "
        "(all), or of the N newest",
        match=r"best|all|[1-9][0-9]{0,8}",
        hint="best, all, or a whole number from 1 on",
    )
    ema: float | None = option(
        "validate, test and keep an average of the weights, as in 0.999: each step it moves 1 - "
        "ema of the way; null or 0 = the weights themselves",
        ge=0,
        lt=1,
    )
    patience: int | None = option(
        "stop after this many evaluations without a new best; null = never", ge=1
    )
    grad_accum: int = option("micro-batches added up for one optimiser step", ge=1)
    compile: bool = option("torch.compile the model")
    sample_chars: int = option("tokens of the text sample at each evaluation; 0 = none", ge=0)
    devices: int | None = option(
        "processes that train together, each on a GPU or on its share of the CPU; null = 1", ge=1
    )
    strategy: Strategy | None = option(
        "of several processes each holds the whole model (ddp) or a part (fsdp2); null = ddp"
    )
    norms: bool = option("record norms of gradient, weights and update of each layer at log steps")
    profile: Any = option(
        "trace some steps after the warm-up with torch's profiler: true = 5, or how many",
        switch=True,
        ge=1,
        le=1000,
    )

    def __post_init__(self) -> None:
        """Turn ema=0 into null: both mean that there is no average."""
        self.ema = self.ema or None

    def check(self) -> None:
        """Raise UserError for values that do not go together."""
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            raise UserError(
                "training would never end: give trainer.max_steps=N, trainer.max_epochs=E or "
                "trainer.max_minutes=M"
            )


@dataclass
class TrackingSettings:
    """Where the record of a run goes; the run folder always keeps the truth."""

    kind: TrackingKind = option("where metrics go besides the terminal")
    uri: str | None = option(
        "MLflow tracking URI; null = $MLFLOW_TRACKING_URI, else sqlite:///<output_dir>/mlflow.db",
        path=True,
    )
    experiment_name: str | None = option(
        "MLflow experiment, or wandb's project or entity/project; null = the task's name"
    )
