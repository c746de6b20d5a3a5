"""What the command line asks for and this run has no use for: refused rather than passed over.

Only words of the command line count. An experiment may set `model.bidirectional` for its Mamba and
be trained with `model=transformer`, too.
"""

from mambalab.config.schema import TrainConfig
from mambalab.errors import NotApplicableError
from mambalab.settings.model import AUTO
from mambalab.settings.task import InductionHeadsSettings, SelectiveCopyingSettings, TextSettings


def check(words: list[str], settings: TrainConfig) -> None:
    """Raise NotApplicableError for the first word that would change nothing.

    Args:
        words: overrides, as `KEY=VALUE`.
        settings: what they and the YAML files amount to.
    """
    task, model = settings.task, settings.model
    given = {word.lstrip("+").partition("=")[0] for word in words}
    generated = isinstance(task, SelectiveCopyingSettings | InductionHeadsSettings)
    if "data_fraction" in given and settings.data_fraction < 1 and generated:
        raise NotApplicableError(
            f"data_fraction={settings.data_fraction:g}: the sequences of task={task.name} are "
            "generated, no two are the same; use data_fraction=1"
        )
    if model._target_ != AUTO:
        return
    if "model.pooling" in given and (generated or isinstance(task, TextSettings)):
        raise NotApplicableError(
            f"model.pooling={model.pooling.name}: task={task.name} predicts tokens, nothing is "
            "pooled; model.pooling is for classification"
        )
    if "model.bidirectional" in given and model.bidirectional and "M" not in model.layers():
        raise NotApplicableError(
            f"model.bidirectional=true: model={model.name} has no Mamba layer that reads one way "
            "only; leave it out"
        )
