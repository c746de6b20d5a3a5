"""Configuration: YAML composed by Hydra, typed and checked by the settings classes."""

from mambalab.config.compose import compose, typed
from mambalab.config.identity import (
    SIZES,
    as_recorded,
    differences,
    run_dir,
    settings_hash,
    to_plain,
    to_yaml,
)
from mambalab.config.labels import FIGURE, LABELS, with_labels_of
from mambalab.config.schema import TrainConfig
from mambalab.config.trust import check_modules, load_run_config, resolve_target
from mambalab.config.user_conf import replaced, tell_replaced

__all__ = [
    "FIGURE",
    "LABELS",
    "SIZES",
    "TrainConfig",
    "as_recorded",
    "check_modules",
    "compose",
    "differences",
    "load_run_config",
    "replaced",
    "resolve_target",
    "run_dir",
    "settings_hash",
    "tell_replaced",
    "to_plain",
    "to_yaml",
    "typed",
    "with_labels_of",
]
