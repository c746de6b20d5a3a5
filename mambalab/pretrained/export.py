"""Writes a checkpoint folder in either layout: complete or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from mambalab.errors import UserError
from mambalab.models.heads import LanguageModel
from mambalab.pretrained import tokens, weights
from mambalab.pretrained.layout import CONFIG, NORM_EPS, OURS, THEIRS, Layout, config_of
from mambalab.pretrained.load import HEAD
from mambalab.settings.model import ModelSettings
from mambalab.tokenization import tokenizer as files
from mambalab.tokenization.ends import GENERATION, KEY
from mambalab.utils import tensors as tensor_file

CARD = "README.md"
_SAFETENSORS, _PICKLE = weights.WHOLE
FILES = {CONFIG, _SAFETENSORS, _PICKLE, files.FILE, files.CONFIG, GENERATION, CARD}


def obstacle(model: Any, settings: ModelSettings, layout: Layout) -> str | None:
    """Why a model has no place in a layout, a clause about it; None if it has."""
    if type(model) is not LanguageModel:
        return f"is a {type(model).__name__}; only language models of mambalab's own can"
    if others := set(settings.layers()) - {"M"}:
        kind = "attention" if settings.attends() else f"{min(others)}"
        return f"has {kind} layers (pattern {settings.pattern}); only Mamba layers can"
    if settings.position_embedding:
        return "has learned positions, which neither layout knows"
    if layout is Layout.original and settings.norm_eps != NORM_EPS:
        return (
            f"has norm_eps={settings.norm_eps:g}, and the original layout knows only "
            f"{NORM_EPS:g}; use to=hf"
        )
    return None


def check_target(out: Path, overwrite: bool) -> None:
    """Raise UserError if there is something at `out` that is not ours to replace."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"out={out} is a file or a link: name a new folder")
    there = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if there and not overwrite:
        raise UserError(
            f"out={out} is not empty: name a new folder, or replace with overwrite=true"
        )
    if foreign := [name for name in there if name not in FILES]:
        raise UserError(f"out={out} holds {foreign[0]}, which no export wrote: name a new folder")


def write(
    out: Path,
    model: LanguageModel,
    settings: ModelSettings,
    *,
    layout: Layout,
    tokenizer: files.Tokenizer,
    card: str,
    overwrite: bool,
) -> None:
    """Write config, tensors, tokenizer and model card.

    Args:
        out: the folder; appears when all is written, in place of what `check_target` allows.
        model: whose `obstacle` is None.
        settings: of the model.
        layout: what to write.
        tokenizer: of its texts.
        card: text of the README.md.
        overwrite: replace an earlier export.

    Raises:
        UserError: the folder cannot be written, or something else is there.
    """
    out = out.absolute()
    check_target(out, overwrite)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    earlier = out.with_name(f".{out.name}.earlier-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        rows = model.lm_head.weight.shape[0]
        ends = tokenizer.eos_ids
        _json(partial / CONFIG, config_of(layout, settings, rows, ends))
        if len(ends) > 1:
            _json(partial / GENERATION, {KEY: list(ends)})
        _tensors(partial, model, settings, layout)
        content, beside = tokens.written(tokenizer)
        _json(partial / files.FILE, content)
        _json(partial / files.CONFIG, beside)
        (partial / CARD).write_text(card, encoding="utf-8")
        if out.exists() and any(out.iterdir()):
            out.rename(earlier)
        partial.rename(out)
    except (OSError, SafetensorError) as error:
        if earlier.exists() and not out.exists():
            earlier.rename(out)
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot write out={out}: {why}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)


def _tensors(folder: Path, model: LanguageModel, settings: ModelSettings, layout: Layout) -> None:
    tensors: dict[str, Tensor] = {
        name: tensor.detach().cpu().float().contiguous()
        for name, tensor in model.state_dict().items()
    }
    if layout is Layout.original:  # its loader wants both names of a tied tensor
        torch.save(tensors, folder / _PICKLE)
        return
    if settings.tie_embeddings:
        del tensors[HEAD]
    named = {name.replace(OURS, THEIRS, 1): tensor for name, tensor in tensors.items()}
    tensor_file.save(named, folder / _SAFETENSORS, {"format": "pt"})


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")
