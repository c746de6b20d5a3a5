"""Resolves what a run starts from: fresh weights, or the checkpoint `model.pretrained` names.

From a checkpoint it takes the sizes, the tokenizer and, once, the weights. All three are then in
the run folder, with the checkpoint's hash, and the checkpoint is not needed again.
"""

import dataclasses
import logging
import shlex
from pathlib import Path
from typing import Any

from torch import nn

from mambalab import config
from mambalab.data.hub import read_json
from mambalab.errors import UserError
from mambalab.models.heads import LanguageModel
from mambalab.pretrained import fetch, load, tokens
from mambalab.pretrained.layout import Description
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import RunSummary
from mambalab.runs import build, resume
from mambalab.runs.load import own_tokenizer
from mambalab.settings.model import ModelSettings
from mambalab.settings.task import TextSettings
from mambalab.settings.train import Resume
from mambalab.tokenization import tokenizer as tokenizers
from mambalab.tokenization.byte_pairs import is_made
from mambalab.tokenization.tokenizer import CHARACTERS, FILE, FileTokenizer
from mambalab.train.checkpoint import Checkpoint, restore_weights

LOG = logging.getLogger("mambalab")
KEY = "model.pretrained"


@dataclasses.dataclass(frozen=True)
class ResolvedStart:
    """What a run starts from, and its settings made complete by it.

    Attributes:
        settings: with the sizes of the checkpoint.
        tokenizer: a tokenizer.json that stands in for what task.tokenizer says, or None.
        folder: of the checkpoint whose weights the run starts with; None if they are fresh, or it
            goes on from a checkpoint of its own.
        checkpoint: `path` and `sha256` of what the run started with, for its summary; None if its
            first weights were fresh.
        ends: tokens that end a text.
        assets: files for the run's folder that say so, for the sessions after this one.
    """

    settings: config.TrainConfig
    tokenizer: Path | None = None
    folder: Path | None = None
    checkpoint: dict[str, str] | None = None
    ends: tuple[int, ...] = ()
    assets: dict[str, str] = dataclasses.field(default_factory=dict)

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


def resolve_start(
    settings: config.TrainConfig, folder: RunFolder, summary: RunSummary, resumed: Checkpoint | None
) -> ResolvedStart:
    """Find out what a run starts from; the checkpoint is fetched if need be.

    Args:
        settings: as composed.
        folder: of the run.
        summary: of the run.
        resumed: checkpoint of the run itself from which it goes on, or None.

    Raises:
        UserError: the checkpoint cannot be had, or does not go with these settings.
    """
    name = settings.model.pretrained
    if resumed is not None:
        if name is not None:
            recorded = resume.read_recorded_config(settings, folder.path).model
            settings = _sized(settings, {key: getattr(recorded, key) for key in config.SIZES})
        own = own_tokenizer(folder.path, settings)
        return ResolvedStart(settings, own, checkpoint=summary.checkpoint or None)
    if name is None:
        return ResolvedStart(settings)
    _check(settings)
    data_dir = Path(settings.data_dir).expanduser()
    found_at = fetch.checkpoint(name, data_dir, KEY)
    if RunFolder(found_at).config.is_file():
        command = shlex.join(["mambalab", "export", f"run={name}"])
        raise UserError(f"{KEY}={name} is a run: export it first ({command} ...)")
    found = load.read_description(found_at)
    sizes = {key: getattr(found.settings, key) for key in config.SIZES}
    settings = _sized(settings, {**sizes, "vocab_size": found.rows})
    chosen = _tokenizer(settings, found_at, found)
    identity = {"path": str(found_at.absolute()), "sha256": load.fingerprint(found_at)}
    beside = {name: text for name, text in chosen.assets().items() if name != FILE}
    return ResolvedStart(settings, chosen.path, found_at, identity, chosen.eos_ids, beside)


def check_unchanged(settings: config.TrainConfig, folder: RunFolder, summary: RunSummary) -> None:
    """Raise UserError if what a run started with is still there, but is another thing now.

    A checkpoint or tokenizer that is gone is no obstacle: the run has its own. In the hub's cache
    revisions come and go, so another one there means only that the old one is gone. Does nothing
    under resume=never.
    """
    if settings.resume is Resume.never:
        return
    remedy = "bring the old one back, give a new run_dir, or start again with resume=never"
    data_dir = Path(settings.data_dir).expanduser()
    named = getattr(settings.task, "tokenizer", None)
    if summary.checkpoint and settings.model.pretrained is not None:
        name, sha256 = settings.model.pretrained, summary.checkpoint["sha256"]
        origin = fetch.place_outside_cache(name, data_dir)
        if fetch.is_complete(origin):
            if load.fingerprint(origin) != sha256:
                raise UserError(f"the checkpoint {origin} changed since {folder} began: {remedy}")
        elif all(load.fingerprint(revision) != sha256 for revision in fetch.cached(name)):
            LOG.info("%s is gone; the run has what it took from there", origin)
        named = named or str(origin)
    own = folder.path / FILE
    if named is None or not own.is_file() or is_made(named):
        return
    source = tokenizers.place_outside_cache(named, data_dir)
    if source.is_file() and read_json(source) != read_json(own):
        raise UserError(f"the tokenizer {source} changed since {folder} began: {remedy}")


def _check(settings: config.TrainConfig) -> None:
    """Raise UserError if this task or model cannot start from a checkpoint."""
    name = settings.model.pretrained
    if not isinstance(settings.task, TextSettings):
        raise UserError(
            f"{KEY}={name}: task {settings.task.name} predicts no text; fine-tuning is for "
            "task=text and task=shakespeare"
        )
    ours = f"{LanguageModel.__module__}.{LanguageModel.__qualname__}"
    if settings.model._target_ not in (build.AUTO, ours):
        raise UserError(f"{KEY}={name}: cannot fill model._target_={settings.model._target_}")


def _sized(settings: config.TrainConfig, sizes: dict[str, Any]) -> config.TrainConfig:
    """Return the settings with the checkpoint's sizes.

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


def _tokenizer(settings: config.TrainConfig, folder: Path, found: Description) -> FileTokenizer:
    """Choose the tokenizer to train with: the one named, else the checkpoint's."""
    task: Any = settings.task
    named, name = task.tokenizer, settings.model.pretrained
    if named == CHARACTERS or is_made(named):
        raise UserError(
            f"task.tokenizer={named}: {KEY}={name} has tokens of its own; leave this out"
        )
    data_dir = Path(settings.data_dir).expanduser()
    chosen = tokens.choose(
        named,
        folder,
        data_dir,
        rows=found.rows,
        eos_id=found.eos_id,
        ends=found.ends,
        key="task.tokenizer",
    )
    beside = folder / FILE
    elsewhere = beside.is_file() and beside != chosen.path
    if elsewhere and FileTokenizer(beside).tokens() != chosen.tokens():
        LOG.warning("task.tokenizer=%s has other tokens than %s", named, beside)
    return chosen
