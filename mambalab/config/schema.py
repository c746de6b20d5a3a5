"""The typed schema of training: `TrainConfig`, and the settings class of each task.

The classes of its groups are in `mambalab/settings/`; here they are joined. The settings class of
any other verb is at the top of the verb's file in `mambalab/commands/`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from mambalab.errors import NotApplicableError
from mambalab.settings.figure import FigureSettings
from mambalab.settings.model import DropoutSettings, ModelSettings
from mambalab.settings.rules import DEVICE, DEVICE_HINT, FOLDER, RUN_NAME, TAG, option
from mambalab.settings.task import (
    ClassificationSettings,
    ClassifySettings,
    DiffusionSettings,
    FolderSettings,
    ImageSettings,
    InductionHeadsSettings,
    ListOpsSettings,
    PairSettings,
    PatchSettings,
    PixelModelSettings,
    PixelSettings,
    SelectiveCopyingSettings,
    TaskSettings,
    TextSettings,
)
from mambalab.settings.train import (
    OptimKind,
    OptimSettings,
    Precision,
    Resume,
    Strategy,
    TrackingSettings,
    TrainerSettings,
)

# Tasks with settings of their own. A class outside this list, a user's own, has those of
# TaskSettings; or, if its YAML builds on one of these tasks and so holds all its keys, that one's.
TASK_SETTINGS: dict[str, type[TaskSettings]] = {
    "mambalab.tasks.text.TextTask": TextSettings,
    "mambalab.tasks.text.ShakespeareTask": TextSettings,
    "mambalab.tasks.corpora.Enwik8Task": TextSettings,
    "mambalab.tasks.corpora.Text8Task": TextSettings,
    "mambalab.tasks.corpora.WikiText2Task": TextSettings,
    "mambalab.tasks.corpora.WikiText103Task": TextSettings,
    "mambalab.tasks.mnist.MnistTask": PixelSettings,
    "mambalab.tasks.digits.DigitsTask": PixelSettings,
    "mambalab.tasks.cifar10.Cifar10Task": PatchSettings,
    "mambalab.tasks.lra_image.LraImageTask": ImageSettings,
    "mambalab.tasks.image_folder.ImageFolderTask": FolderSettings,
    "mambalab.tasks.pixels.PixelModelTask": PixelModelSettings,
    "mambalab.tasks.diffusion.DiffusionTask": DiffusionSettings,
    "mambalab.tasks.pairs.PairTask": PairSettings,
    "mambalab.tasks.pairs.RetrievalTask": PairSettings,
    "mambalab.tasks.classify.ClassifyTask": ClassifySettings,
    "mambalab.tasks.listops.ListOpsTask": ListOpsSettings,
    "mambalab.tasks.synthetic.SelectiveCopyingTask": SelectiveCopyingSettings,
    "mambalab.tasks.synthetic.InductionHeadsTask": InductionHeadsSettings,
}

# Settings that older recorded runs do not have, with the value that means the same as their
# absence: it makes no other run and no other folder (see `means_absent`).
AS_BEFORE: dict[str, Any] = {
    "name": None,
    "tags": None,
    "note": None,
    "model.vocab_size": None,
    "model.pretrained": None,
    "model.qk_norm": False,
    "model.rotary": "sequence",
    "model.patch_norm": None,
    "task.tokenizer": None,
    "task.files": None,
    "task.column": None,
    "task.val_path": None,
    "task.test_path": None,
    "task.tune": None,
    "task.windows": None,
    "task.background": None,
    "optim.kind": None,
    "optim.adamw_lr_ratio": None,
    "optim.momentum": None,
    "optim.nesterov": None,
    "optim.ns_steps": None,
    "trainer.keep_last": None,
    "trainer.max_epochs": None,
    "trainer.devices": None,
    "trainer.strategy": None,
    "figure.width": None,
    "figure.font": None,
    "figure.font_size": None,
    "figure.format": None,
    "trainer.keep": "best",
    "trainer.ema": None,
    "trainer.norms": False,
    "trainer.profile": False,
}
PATCH_NORM = "model.patch_norm"


@dataclass
class TrainConfig:
    """`mambalab train`: everything that makes a run."""

    task: TaskSettings
    model: ModelSettings
    dropout: DropoutSettings
    optim: OptimSettings
    trainer: TrainerSettings
    tracking: TrackingSettings
    figure: FigureSettings
    seed: int = option("seed of everything random: weights, batches, dropout", ge=0, lt=2**63)
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)
    precision: Precision = option("arithmetic of matrix products; the rest stays float32")
    data_dir: str = option("folder of the data sets (default $MAMBALAB_DATA_DIR)", **FOLDER)
    data_fraction: float = option("train on this share of the training data", gt=0, le=1)
    output_dir: str = option("folder where runs go", **FOLDER)
    run_dir: str | None = option("folder of this run; null = named after its config", **FOLDER)
    name: str | None = option("what you call this run; no other run if it changes", **RUN_NAME)
    tags: list[str] | None = option("words to find it by, as in tags=[baseline,draft]", **TAG)
    note: str | None = option("a remark on it, shown in MLflow")
    resume: Resume = option("continue the run in run_dir: auto if there, never, or must")
    trust: list[str] = option("modules outside mambalab whose classes a recorded run may name")

    def check(self) -> None:
        """Raise NotApplicableError for values of different groups that do not go together."""
        if self.dropout.ssm_p > 0 and "M" not in self.model.layers():
            raise NotApplicableError(
                f"dropout.ssm_p={self.dropout.ssm_p:g} (dropout={self.dropout.name}): "
                f"model={self.model.name} has no state-space layer to drop in, "
                "use dropout=standard or dropout.ssm_p=0"
            )
        if self.trainer.strategy is Strategy.fsdp2:
            self._check_sharing()

    def _check_sharing(self) -> None:
        """Refuse what needs whole weights in each process."""
        whole = {
            "optim=muon": self.optim.kind is OptimKind.muon,
            f"trainer.ema={self.trainer.ema}": self.trainer.ema is not None,
            "trainer.norms=true": self.trainer.norms,
            "precision=fp16": self.precision is Precision.fp16,
        }
        for setting, given in whole.items():
            if given:
                raise NotApplicableError(
                    f"{setting}: with trainer.strategy=fsdp2 each process has a part of the "
                    "weights only; use trainer.strategy=ddp, or leave one of the two out"
                )


@dataclass(frozen=True)
class Option:
    """One setting as the command line knows it: dotted key, type, line of help."""

    key: str
    type: Any
    help: str


def task_settings(task: dict[str, Any]) -> type[TaskSettings]:
    """The settings class of a task, given its plain config."""
    target = task.get("_target_")
    if target in TASK_SETTINGS:
        return TASK_SETTINGS[target]
    optional = {key.removeprefix("task.") for key in AS_BEFORE if key.startswith("task.")}
    for cls in (*TASK_SETTINGS.values(), ClassificationSettings, ImageSettings):
        names = {f.name for f in fields(cls)}
        if names - optional <= set(task) <= names:
            return cls
    return TaskSettings


def complete(plain: dict[Any, Any]) -> None:
    """Add the keys of `AS_BEFORE` that a plain training configuration lacks, with its values.

    Args:
        plain: changed in place; an older run's perhaps.
    """
    for key, value in AS_BEFORE.items():
        group, dot, name = key.partition(".")
        if not dot:
            plain.setdefault(key, value)
            continue
        part = plain.setdefault(group, {}) if group == "figure" else plain.get(group)
        if not isinstance(part, dict) or name in part:
            continue
        classes: dict[str, type] = {
            "model": ModelSettings,
            "optim": OptimSettings,
            "trainer": TrainerSettings,
            "figure": FigureSettings,
        }
        cls = classes.get(group) or task_settings(part)
        if name in {f.name for f in fields(cls)}:
            part[name] = value


def means_absent(key: str, flat: Mapping[str, Any]) -> bool:
    """Whether a setting says no more than its absence from the configuration of an older run.

    Args:
        key: dotted name of the setting.
        flat: all settings of the run by dotted name, as plain values.
    """
    value = flat[key]
    if key == PATCH_NORM and value is not None:
        if "task.patch_size" in flat:
            return value is False
        # Tasks of mambalab cut patches only with this key; of a user's own, `false` may say more.
        ours = str(flat.get("task._target_")).startswith("mambalab.")
        return value == "auto" or (value is False and ours)
    return key in AS_BEFORE and value == AS_BEFORE[key]


def walk(cls: type, replace: dict[str, type] | None = None, prefix: str = "") -> Iterator[Option]:
    """All settings of a settings class and of those inside it, in the order of declaration.

    Args:
        cls: the settings class.
        replace: classes at a key instead of the declared ones, e.g. {"task": TextSettings}.
        prefix: dotted path of `cls`, with its final dot.
    """
    hints = get_type_hints(cls)
    declared: tuple[Field, ...] = fields(cls)
    for f in declared:
        key = prefix + f.name
        kind = (replace or {}).get(key, hints[f.name])
        if is_dataclass(kind):
            yield from walk(kind, replace, key + ".")
        else:
            yield Option(key, kind, f.metadata.get("help", ""))
