"""Labels of a run: name, tags and note, for people, and how its pictures look. They make no other
run, and may change.

Null means "as the run has it", so that the command that trained a run, without them, keeps them.
"""

from dataclasses import fields, replace

from mambalab.config.schema import TrainConfig

LABELS = ("name", "tags", "note")
FIGURE = "figure"


def with_labels_of(settings: TrainConfig, recorded: TrainConfig) -> TrainConfig:
    """Give settings the labels that their run was recorded with, where they say none."""
    kept = {key: getattr(recorded, key) for key in LABELS if getattr(settings, key) is None}
    shown = {
        f.name: getattr(recorded.figure, f.name)
        for f in fields(settings.figure)
        if getattr(settings.figure, f.name) is None
    }
    return replace(settings, **kept, figure=replace(settings.figure, **shown))
