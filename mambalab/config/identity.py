"""The identity of a run: its YAML, its folder, what may change when it is resumed."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Set
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mambalab.config.schema import TrainConfig, means_absent
from mambalab.utils.mapping import flatten
from mambalab.utils.secrets import hide_password

# What does not make another run: where it runs, where it is kept, how it is watched, how far,
# what people call it.
MAY_CHANGE = frozenset(
    [
        "run_dir",
        "output_dir",
        "resume",
        "name",
        "tags",
        "note",
        "device",
        "data_dir",
        "tracking",
        "figure",
        "trust",
        "trainer.max_steps",
        "trainer.max_epochs",
        "trainer.max_minutes",
        "trainer.keep_last",
        "trainer.devices",
        "trainer.strategy",
        "trainer.keep",
        "trainer.norms",
        "trainer.profile",
    ]
)
# Where things lie that are told by their content.
PLACES = frozenset(
    [
        *("task.path", "task.val_path", "task.test_path", "task.data"),
        *("task.tokenizer", "model.pretrained"),
    ]
)
# Keys of `model` that `model.pretrained` decides; a run records what it found there.
SIZES = (
    "pattern",
    "d_model",
    "n_layer",
    "d_state",
    "d_conv",
    "expand",
    "dt_rank",
    "norm_eps",
    "tie_embeddings",
    "vocab_size",
)
# Keys without a meaning then: these, and how weights would have been drawn.
DECIDED = frozenset([*SIZES, "dt_min", "dt_max", "dt_init_floor"])


def to_plain(cfg: Any) -> dict[str, Any]:
    """A configuration, typed object or DictConfig, as plain values (enums by name)."""
    value = OmegaConf.to_object(cfg) if isinstance(cfg, DictConfig) else cfg
    plain = _plain(value)
    assert isinstance(plain, dict)
    return plain


def to_yaml(cfg: Any) -> str:
    """A configuration, typed object or DictConfig, as YAML that `load_run_config` reads back."""
    import yaml

    return yaml.safe_dump(to_plain(cfg), sort_keys=False, allow_unicode=True, width=100)


def as_recorded(cfg: TrainConfig) -> TrainConfig:
    """The configuration as a run folder keeps it: data found from anywhere, no password in it."""
    data_dir = os.path.abspath(os.path.expanduser(cfg.data_dir))
    tracking = cfg.tracking
    if tracking.uri is not None:
        tracking = dataclasses.replace(tracking, uri=hide_password(tracking.uri))
    return dataclasses.replace(cfg, data_dir=data_dir, tracking=tracking)


def run_dir(cfg: TrainConfig | DictConfig) -> Path:
    """The folder of the run that a training configuration means.

    `run_dir` if it is set, else `<output_dir>/<task>/<model>/<dropout>-<hash>-s<seed>`
    (`<dropout>-tune-<hash>-s<seed>` with `task.tune=true`), where the
    hash covers every value but the seed and those of `MAY_CHANGE`: the same values mean the same
    folder, whoever gave them.
    """
    plain = to_plain(cfg)
    if plain["run_dir"]:
        return Path(plain["run_dir"])
    digest = _digest(plain, leave_out={"seed"})[:8]
    tune = "-tune" if plain["task"].get("tune") else ""
    name = f"{plain['dropout']['name']}{tune}-{digest}-s{plain['seed']}"
    return Path(plain["output_dir"], plain["task"]["name"], plain["model"]["name"], name)


def settings_hash(cfg: TrainConfig) -> str:
    """Identity of a run by its settings, seed included, for its checkpoints; 64 hexadecimal digits.

    Where data, tokenizer and first weights lie is left out: they may move, and a run knows by
    their content whether they are its own.
    """
    return _digest(to_plain(cfg), leave_out=PLACES)


def _digest(plain: dict[str, Any], leave_out: Set[str]) -> str:
    """SHA-256 of the values that make a run, in hexadecimal digits."""
    flat = flatten(plain)
    values = {
        key: value
        for key, value in flat.items()
        if not (key in leave_out or may_change(key) or means_absent(key, flat))
    }
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(a: Any, b: Any) -> list[str]:
    """What keeps configuration `b` from continuing the run of `a`: "optim.lr: 0.001 -> 0.01"."""
    old, new = flatten(to_plain(a)), flatten(to_plain(b))
    if old.get("model.pretrained") == new.get("model.pretrained") is not None:
        for size in SIZES:  # those of the checkpoint, in `a`
            new[f"model.{size}"] = old.get(f"model.{size}")
    return [
        f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if not may_change(key) and _said(key, old) != _said(key, new)
    ]


def may_change(key: str) -> bool:
    """Whether a dotted key may differ when a run is resumed."""
    return key in MAY_CHANGE or key.split(".")[0] in MAY_CHANGE


def _said(key: str, flat: dict[str, Any]) -> Any:
    """A setting's value; the same for all that say no more than its absence."""
    return _ABSENT if key not in flat or means_absent(key, flat) else flat[key]


_ABSENT = object()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.name if isinstance(value, Enum) else value
