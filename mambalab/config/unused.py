"""What the command line asks for and this run has no use for: refused or said, not passed over.

Only words of the command line count. An experiment may set `model.bidirectional` for its Mamba and
be trained with `model=transformer`, too.
"""

from collections.abc import Collection
from functools import cache

from mambalab.config.schema import TrainConfig
from mambalab.errors import NotApplicableError
from mambalab.settings.model import AUTO
from mambalab.settings.task import (
    DiffusionSettings,
    InductionHeadsSettings,
    ListOpsSettings,
    PixelModelSettings,
    SelectiveCopyingSettings,
    TextSettings,
)
from mambalab.utils.console import LOG

OF_ATTENTION = frozenset(["model.n_head", "model.rope_theta", "model.rotary", "model.qk_norm"])
OF_MADE_EXPRESSIONS = frozenset(
    ["task.min_words", "task.max_depth", "task.max_args", "task.data_seed"]
    + [f"task.{split}_size" for split in ("train", "val", "test")]
)


def check(given: Collection[str], settings: TrainConfig) -> None:
    """Raise NotApplicableError for the first key that would change nothing.

    Args:
        given: keys of the command line.
        settings: what they and the YAML files amount to.
    """
    task, model = settings.task, settings.model
    generated = isinstance(task, SelectiveCopyingSettings | InductionHeadsSettings)
    if "data_fraction" in given and settings.data_fraction < 1 and generated:
        raise NotApplicableError(
            f"data_fraction={settings.data_fraction:g}: the sequences of task={task.name} are "
            "generated, no two are the same; use data_fraction=1"
        )
    if isinstance(task, ListOpsSettings) and task.path is not None:
        for key in sorted(OF_MADE_EXPRESSIONS.intersection(given)):
            raise NotApplicableError(
                f"{key}: expressions are read from task.path={task.path}, none are made up; leave "
                "one of the two out"
            )
    if isinstance(task, PixelModelSettings) and task.folder() is None:
        for key in sorted({"task.test_size", "task.background"}.intersection(given)):
            raise NotApplicableError(f"{key}: that is for a folder; task.data={task.data} is none")
    if isinstance(task, DiffusionSettings) and task.is_text():
        for key in sorted({"task.levels", "task.val_size"}.intersection(given)):
            raise NotApplicableError(f"{key}: that is for pictures; task.data=text has none")
    if isinstance(task, TextSettings) and "task.val_fraction" in given:
        own = "task.val_path validates" if task.val_path is not None else ""
        if own or task._target_.startswith("mambalab.tasks.corpora."):
            raise NotApplicableError(
                f"task.val_fraction={task.val_fraction:g}: {own or 'the splits are published'}; "
                "leave it out"
            )
    if model._target_ != AUTO:
        return
    for key in given:
        if key in OF_ATTENTION and not model.attends():
            _say(f"{key} has no effect: model={model.name} has no attention")
        if key == "model.d_ff" and not set("AF") & set(model.layers()):
            _say(f"{key} has no effect: model={model.name} has no FFN")
    if "model.pooling" in given and (
        generated or isinstance(task, TextSettings | PixelModelSettings)
    ):
        raise NotApplicableError(
            f"model.pooling={model.pooling.name}: task={task.name} predicts tokens, nothing is "
            "pooled; model.pooling is for classification"
        )
    if "model.bidirectional" in given and model.bidirectional and "M" not in model.layers():
        raise NotApplicableError(
            f"model.bidirectional=true: model={model.name} has no Mamba layer that reads one way "
            "only; leave it out"
        )


@cache
def _say(line: str) -> None:
    """Say a line once: a sweep asks for each of its jobs."""
    LOG.warning(line)
