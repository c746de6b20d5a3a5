"""Run folders made for tests of comparisons."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mambalab.records.reader import RunRecord, read_run

DROPOUT = {"none": (0.0, 0.0), "standard": (0.1, 0.0), "ssm": (0.1, 0.1)}
SUMMARY = {
    "status": "FINISHED",
    "ended_by": "max_steps",
    "parameters": 1000,
    "precision": "fp32",
    "device": "cpu",
    "git_revision": "abc",
    "packages": {"torch": "2.11"},
    "data": {"sha256": "d" * 64},
    "tokens_per_second": 500.0,
    "tokens_per_step": 64,
}


def rows(val: Sequence[float | None], *, every: int = 10, train: float = 1.0) -> list[dict]:
    """Lines of metrics.jsonl: an evaluation and a training point at each multiple of `every`,
    two seconds a step."""
    found = []
    for i, loss in enumerate(val, 1):
        step = every * i
        found.append({"step": step, "train/loss": train, "time/seconds": 2.0 * step})
        found.append({"step": step, "val/loss": loss})
    return found


def config(dropout: str = "none", seed: Any = 1, **settings: Any) -> dict[str, Any]:
    """A nested config; further settings by name, with `__` for the dot."""
    p, ssm_p = DROPOUT[dropout]
    made: dict[str, Any] = {
        "task": {"name": "toy", "seq_len": 8},
        "model": {"name": "mamba", "d_model": 16},
        "dropout": {"name": dropout, "p": p, "ssm_p": ssm_p, "reset_A": True},
        "optim": {"lr": 0.001},
        "trainer": {"max_steps": 40, "max_minutes": None},
        "seed": seed,
        "device": "auto",
    }
    for name, value in settings.items():
        group, _, key = name.partition("__")
        if key:
            made[group][key] = value
        else:
            made[group] = value
    return made


def make_run(
    folder: Path,
    val: Sequence[float | None] = (3.0, 2.0, 1.0, 1.5),
    *,
    summary: Mapping[str, Any] | None = None,
    lines: Sequence[dict] | None = None,
    **settings: Any,
) -> Path:
    """Write a finished run; `settings` go to `config`, `summary` changes what SUMMARY holds."""
    folder.mkdir(parents=True)
    lines = rows(val) if lines is None else lines
    (folder / "config.yaml").write_text(yaml.safe_dump(config(**settings), sort_keys=False))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = {**SUMMARY, "step": max((r["step"] for r in lines), default=0), **(summary or {})}
    (folder / "summary.json").write_text(json.dumps(made))
    return folder


def make_group(
    folder: Path, best: Sequence[float], *, rise: float = 0.0, **settings: Any
) -> list[RunRecord]:
    """A run for each best value, with seeds 1, 2, ...; `rise` is added until the end."""
    return [
        read_run(make_run(folder / f"s{i}", [b + 2, b + 1, b, b + rise], seed=i, **settings))
        for i, b in enumerate(best, 1)
    ]
