"""Fine-tuning: what a run takes from the checkpoint that `model.pretrained` names.

That is its sizes, its tokenizer and, once, its weights. All three are then in the run folder, with
the checkpoint's hash, and the checkpoint is not needed again.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from torch import nn

from mambalab import config
from mambalab.data.hub import read_json
from mambalab.errors import UserError
from mambalab.models.heads import LanguageModel
from mambalab.pretrained import fetch, load, tokens
from mambalab.pretrained.layout import Description
from mambalab.records import run_folder
from mambalab.runs import build, resume
from mambalab.settings.model import ModelSettings
from mambalab.settings.train import Resume
from mambalab.tasks.text import CHARACTERS
from mambalab.tokenization.tokenizer import FILE, FileTokenizer, place
from mambalab.train.checkpoint import Checkpoint, restore_weights
from mambalab.utils import files

LOG = logging.getLogger("mambalab")
KEY = "model.pretrained"
NOTED = "checkpoint"  # in a run's summary


@dataclasses.dataclass(frozen=True)
class Beginning:
    """A run's settings, made whole, and where it begins.

    Attributes:
        settings: with the sizes of the checkpoint.
        tokenizer: a tokenizer.json that stands in for what task.tokenizer says, or None.
        folder: of the checkpoint whose weights the run begins with; None if it begins anew, or
            goes on from a checkpoint of its own.
        facts: for the summary: `checkpoint`, the path and sha256 of what the run began with.
    """

    settings: config.TrainConfig
    tokenizer: Path | None
    folder: Path | None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def fill(self, model: nn.Module) -> None:
        """Put the checkpoint's weights into a fresh model; does nothing without a checkpoint.

        Raises:
            UserError: they cannot be read.
        """
        if self.folder is None:
            return
        device = next(model.parameters()).device
        weights = load.load(self.folder, device)[0].state_dict()
        restore_weights(model, weights, self.folder)
        LOG.info("the weights are those of %s", self.folder)


def begin(settings: config.TrainConfig, run_dir: Path, source: Checkpoint | None) -> Beginning:
    """What the settings of a run amount to; the checkpoint is fetched if need be.

    Args:
        settings: as composed.
        run_dir: of the run.
        source: its own checkpoint from which it goes on, or None.

    Raises:
        UserError: the checkpoint cannot be had, or does not go with these settings.
    """
    name = settings.model.pretrained
    if source is not None:
        if name is not None:
            noted = resume.recorded(settings, run_dir).model
            settings = _sized(settings, {key: getattr(noted, key) for key in config.SIZES})
        own, facts = build.own_tokenizer(run_dir, settings), _recorded(run_dir)
        return Beginning(settings, own, None, {NOTED: facts} if facts else {})
    if name is None:
        return Beginning(settings, None, None)
    _check(settings)
    data_dir = Path(settings.data_dir).expanduser()
    folder = fetch.checkpoint(name, data_dir, KEY)
    if (folder / run_folder.CONFIG).is_file():
        raise UserError(f"{KEY}={name} is a run: export it first (mambalab export run={name} ...)")
    found = load.read_description(folder)
    sizes = {key: getattr(found.settings, key) for key in config.SIZES}
    settings = _sized(settings, {**sizes, "vocab_size": found.rows})
    chosen = _tokenizer(settings, folder, found)
    noted = {"path": str(folder.absolute()), "sha256": load.fingerprint(folder)}
    return Beginning(settings, chosen, folder, {NOTED: noted})


def check_unchanged(settings: config.TrainConfig, run_dir: Path) -> None:
    """Raise UserError if what a run began with is still there, but is another thing now.

    A checkpoint or tokenizer that is gone is no obstacle: the run has its own.
    """
    noted = {} if settings.resume is Resume.never else _recorded(run_dir)
    remedy = "bring the old one back, give a new run_dir, or start again with resume=never"
    data_dir = Path(settings.data_dir).expanduser()
    named = getattr(settings.task, "tokenizer", None)
    if noted and settings.model.pretrained is not None:
        folder = fetch.place(settings.model.pretrained, data_dir)
        if not fetch.is_complete(folder):
            LOG.info("%s is gone; the run has what it took from there", folder)
        elif load.fingerprint(folder) != noted["sha256"]:
            raise UserError(f"the checkpoint {folder} changed since {run_dir} began: {remedy}")
        named = named or str(folder)
    own = run_dir / FILE
    if settings.resume is Resume.never or named is None or not own.is_file():
        return
    source = place(named, data_dir)
    if source.is_file() and read_json(source) != read_json(own):
        raise UserError(f"the tokenizer {source} changed since {run_dir} began: {remedy}")


def _recorded(run_dir: Path) -> dict[str, Any]:
    """What a run began with, of its summary; empty if nothing is noted."""
    return files.read_json(run_dir / run_folder.SUMMARY).get(NOTED) or {}


def _check(settings: config.TrainConfig) -> None:
    """Raise UserError if nothing can be made of a checkpoint here."""
    name = settings.model.pretrained
    if not hasattr(settings.task, "tokenizer"):
        raise UserError(
            f"{KEY}={name}: task {settings.task.name} predicts no text; fine-tuning is for "
            "task=text and task=shakespeare"
        )
    ours = f"{LanguageModel.__module__}.{LanguageModel.__qualname__}"
    if settings.model._target_ not in (build.AUTO, ours):
        raise UserError(f"{KEY}={name}: cannot fill model._target_={settings.model._target_}")


def _sized(settings: config.TrainConfig, sizes: dict[str, Any]) -> config.TrainConfig:
    """With the checkpoint's sizes.

    Raises:
        UserError: somebody chose another size.
    """
    usual: ModelSettings = config.compose("train", ["model=mamba"]).model
    for key, size in sizes.items():
        if (given := getattr(settings.model, key)) not in (size, getattr(usual, key)):
            raise UserError(
                f"model.{key}={given}: the checkpoint {settings.model.pretrained} has {size}; "
                "leave this out (model=pretrained does)"
            )
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, **sizes))


def _tokenizer(settings: config.TrainConfig, folder: Path, found: Description) -> Path:
    """The tokenizer to learn with: the one named, else the checkpoint's."""
    task: Any = settings.task
    named, name = task.tokenizer, settings.model.pretrained
    if named == CHARACTERS:
        raise UserError(
            f"task.tokenizer={CHARACTERS}: {KEY}={name} has tokens of its own; leave this out"
        )
    data_dir = Path(settings.data_dir).expanduser()
    chosen = tokens.choose(
        named, folder, data_dir, rows=found.rows, eos_id=found.eos_id, key="task.tokenizer"
    )
    beside = folder / FILE
    elsewhere = beside.is_file() and beside != chosen.path
    if elsewhere and FileTokenizer(beside).tokens() != chosen.tokens():
        LOG.warning("task.tokenizer=%s has other tokens than %s", named, beside)
    return chosen.path
