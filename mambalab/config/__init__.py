"""Configuration: YAML composed by Hydra, typed and checked by the settings classes."""

from mambalab.config.compose import compose, typed
from mambalab.config.identity import SIZES, differences, recorded, run_dir, to_plain, to_yaml
from mambalab.config.schema import TrainConfig
from mambalab.config.trust import check_modules, load_run_config, resolve_target

__all__ = [
    "SIZES",
    "TrainConfig",
    "check_modules",
    "compose",
    "differences",
    "load_run_config",
    "recorded",
    "resolve_target",
    "run_dir",
    "to_plain",
    "to_yaml",
    "typed",
]
