"""Labels of a run: name, tags and note, for people. They make no other run, and may change.

Null means "as the run has it", so that the command that trained a run, without them, keeps them.
"""

from dataclasses import replace

from mambalab.config.schema import TrainConfig

LABELS = ("name", "tags", "note")


def with_labels_of(settings: TrainConfig, recorded: TrainConfig) -> TrainConfig:
    """Give settings the labels that their run was recorded with, where they say none."""
    kept = {key: getattr(recorded, key) for key in LABELS if getattr(settings, key) is None}
    return replace(settings, **kept)
