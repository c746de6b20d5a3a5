"""Settings of optimiser, trainer and tracking (no torch: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum

from mambalab.settings import option


class Schedule(Enum):
    """Course of the learning rate after warm-up."""

    cosine = "cosine"
    exponential = "exponential"
    constant = "constant"


class Precision(Enum):
    """Arithmetic of matrix products; parameters and states stay float32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Resume(Enum):
    """What to do when the run folder already holds a run."""

    auto = "auto"
    never = "never"
    must = "must"


class TrackingKind(Enum):
    """Where metrics go besides the terminal."""

    mlflow = "mlflow"
    jsonl = "jsonl"
    none = "none"


@dataclass
class OptimSettings:
    """AdamW and the course of its learning rate."""

    name: str = option("name of the optimiser preset")
    lr: float = option("peak learning rate")
    min_lr_ratio: float = option("the schedule ends at lr * min_lr_ratio")
    betas: list[float] = option("AdamW's two averaging coefficients")
    eps: float = option("AdamW's epsilon")
    weight_decay: float = option("decay of matrices (never of A_log, D, norms, biases)")
    warmup_steps: int = option("steps of linear warm-up")
    schedule: Schedule = option("cosine | exponential | constant")
    grad_clip: float | None = option("largest gradient norm; null = no clipping")


@dataclass
class TrainerSettings:
    """How long to train and how often to look."""

    max_steps: int | None = option("stop after this many optimiser steps; null = no limit")
    max_minutes: float | None = option("stop after this many minutes of training; null = no limit")
    log_every: int = option("steps between points of the training curve")
    eval_every: int = option("steps between evaluations of the validation split")
    checkpoint_every: int = option("steps between checkpoints (one is also written at the end)")
    patience: int | None = option(
        "stop after this many evaluations without a new best; null = never"
    )
    grad_accum: int = option("micro-batches added up for one optimiser step")
    compile: bool = option("torch.compile the model")
    sample_chars: int = option("length of the text sample at each evaluation; 0 = none")


@dataclass
class TrackingSettings:
    """Where the record of a run goes; the run folder always keeps the truth."""

    kind: TrackingKind = option("mlflow | jsonl | none")
    uri: str | None = option("MLflow tracking URI; null = sqlite:///<output_dir>/mlflow.db")
    experiment_name: str | None = option("MLflow experiment; null = the task's name")
