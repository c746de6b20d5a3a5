"""Loads a trained language model with what turns text into its tokens and back."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mambalab.errors import UserError
from mambalab.pretrained import fetch, tokens
from mambalab.pretrained import load as checkpoints
from mambalab.records import reader
from mambalab.records.run_folder import RunFolder
from mambalab.runs import classifier
from mambalab.runs.classifier import LoadedClassifier
from mambalab.runs.load import LoadedRun, load_run
from mambalab.settings.task import TextSettings
from mambalab.settings.train import Precision
from mambalab.tokenization.tokenizer import VOCABULARY, Tokenizer, load_from_run
from mambalab.train import chosen, runtime

LOG = logging.getLogger("mambalab")


@dataclass
class LoadedLanguageModel:
    """A language model that is ready to generate.

    Attributes:
        model: in evaluation mode, on `device`.
        tokenizer: of its texts; None if `opened` found none.
        device, precision: where and how it computes.
        name: for people.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    precision: Precision
    name: str


def language_model(
    *,
    run: str,
    output_dir: Path,
    pretrained: str | None = None,
    tokenizer: str | None = None,
    data_dir: Path,
    device: str,
    precision: Precision,
    trust: list[str],
    which: str = chosen.BEST,
) -> LoadedLanguageModel:
    """Load the language model of a run, or a published one.

    Args:
        run: run folder, or `latest`.
        output_dir: where `latest` looks.
        pretrained: instead of a run: a checkpoint folder, or owner/name on the hub.
        tokenizer: of `pretrained`; None looks beside it and then for that of gpt-neox-20b.
        data_dir: where what comes from the hub is kept.
        device: as in the settings.
        precision: `auto` is that of the run, or bf16 for `pretrained`, where the processor is fast
            at it.
        trust: modules outside mambalab whose classes the run may use.
        which: of a run: checkpoint that holds the weights, best, last or step_N.

    Raises:
        UserError: no such run or checkpoint, or it is no language model.
    """
    if pretrained is not None:
        return _published(pretrained, tokenizer, data_dir, device, precision)
    path = reader.resolve_run(run, output_dir)
    loaded = load_run(path, device=device, trust=trust, which=which)
    if (text := _tokenizer(loaded)) is None:
        raise UserError(
            f"{path} is no language model: its task {loaded.settings.task.name} has no vocabulary "
            f"({VOCABULARY})"
        )
    return _of_run(loaded, text, precision)


def opened(
    run: str,
    output_dir: Path,
    *,
    device: str,
    precision: Precision,
    trust: list[str],
    which: str = chosen.BEST,
) -> LoadedLanguageModel | LoadedClassifier:
    """Load the model of any run; arguments as of `language_model`.

    Returns:
        A classifier if the run's task names classes; else a language model, whose tokenizer is
        None if its tokens are no text.

    Raises:
        UserError: no such run, or it has lost its tokenizer.
    """
    path = reader.resolve_run(run, output_dir)
    loaded = load_run(path, device=device, trust=trust, which=which)
    if loaded.spec.classes:
        return classifier.of_run(loaded, _precision(loaded, precision))
    return _of_run(loaded, _tokenizer(loaded), precision)


def published(
    name: str, tokenizer: str | None, data_dir: Path, device: str, precision: Precision
) -> LoadedLanguageModel:
    """Load a published checkpoint; its tokenizer is None, which is said, if it comes with none."""
    try:
        return _published(name, tokenizer, data_dir, device, precision)
    except tokens.NoTokenizerError as error:
        LOG.warning("%s; without one, tokenizer is None", error)
        return _published(name, None, data_dir, device, precision, with_tokenizer=False)


def _of_run(loaded: LoadedRun, text: Tokenizer | None, precision: Precision) -> LoadedLanguageModel:
    chosen = _precision(loaded, precision)
    return LoadedLanguageModel(loaded.model, text, loaded.device, chosen, str(loaded.path))


def _precision(loaded: LoadedRun, precision: Precision) -> Precision:
    """Choose the precision: on `auto`, that of the run."""
    if precision is Precision.auto:
        return loaded.precision
    return runtime.choose_precision(precision, loaded.device)


def _tokenizer(loaded: LoadedRun) -> Tokenizer | None:
    """Load a language model's tokenizer; None if its task has none.

    Raises:
        UserError: the run has lost it.
    """
    text = None if loaded.spec.classes else load_from_run(loaded.path)
    if text is None and isinstance(loaded.settings.task, TextSettings):
        raise UserError(
            f"{loaded.path} has lost {VOCABULARY}, or the tokenizer in its place: bring it back "
            "from a copy, or give the run more steps (trainer.max_steps), which writes it again"
        )
    return text


def _published(
    name: str,
    tokenizer: str | None,
    data_dir: Path,
    device: str,
    precision: Precision,
    with_tokenizer: bool = True,
) -> LoadedLanguageModel:
    """Load a checkpoint in the layout of transformers or of the original code."""
    place = runtime.choose_device(device)
    folder = fetch.checkpoint(name, data_dir)
    if RunFolder(folder).config.is_file():
        raise UserError(f"pretrained={name} is a run, no checkpoint: give it as run={name}")
    model, found = checkpoints.load(folder, place)
    about = {"rows": found.rows, "eos_id": found.eos_id, "ends": found.ends}
    text = tokens.choose(tokenizer, folder, data_dir, **about) if with_tokenizer else None
    chosen = runtime.choose_precision(precision, place)
    return LoadedLanguageModel(model, text, place, chosen, str(folder))
