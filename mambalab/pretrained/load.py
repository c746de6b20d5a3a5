"""A model from a checkpoint folder: built without memory, then filled and checked."""

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor

from mambalab.data.hub import read_json
from mambalab.errors import UserError, escaped
from mambalab.models.dropout import NO_DROPOUT
from mambalab.models.heads import LanguageModel
from mambalab.pretrained import names, weights
from mambalab.pretrained.layout import CONFIG, OURS, THEIRS, Description, Layout, describe
from mambalab.spec import ModelSpec
from mambalab.utils.tensors import nonfinite

HEAD, EMBEDDING = "lm_head.weight", OURS + "weight"
_SEQ_LEN = 2048  # of the published models; Mamba layers do not depend on it


def read_description(folder: Path) -> Description:
    """Read what the config.json of a checkpoint says of its model.

    Raises:
        UserError: absent, damaged, or of another architecture.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{weights.absence(folder / CONFIG)}: {folder} is no checkpoint; name a folder that "
            "holds one, such as mambalab export writes"
        )
    return describe(read_json(folder / CONFIG), folder / CONFIG)


def fingerprint(folder: Path) -> str:
    """sha256 of a complete checkpoint: of the names and sha256 of its config and weights."""
    found = hashlib.sha256()
    for path in (folder / CONFIG, *weights.files(folder)):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.update(f"{path.name} {digest}\n".encode())
    return found.hexdigest()


def load(folder: Path, device: torch.device) -> tuple[LanguageModel, Description]:
    """Load the language model of a folder in either layout, in float32 and evaluation mode.

    Raises:
        UserError: another architecture; tensors that are missing, left over, of other shapes, or
            with values that are no numbers.
    """
    description = read_description(folder)
    found = names.unwrapped(weights.read(folder), folder)
    with torch.device("meta"):
        spec = ModelSpec(vocab_size=description.rows, seq_len=_SEQ_LEN)
        model = LanguageModel(description.settings, NO_DROPOUT, spec)
    ours = {name.replace(THEIRS, OURS, 1): t for name, t in found.items()}
    if len(ours) < len(found):
        raise UserError(f"{folder} has both {THEIRS}weight and {OURS}weight: drop one")
    found = ours
    tied = description.settings.tie_embeddings
    if tied and EMBEDDING in found:
        head = found.setdefault(HEAD, found[EMBEDDING])
        if head is not found[EMBEDDING] and not torch.equal(head, found[EMBEDDING]):
            key = "tie_word_embeddings" if description.layout is Layout.hf else "tie_embeddings"
            raise UserError(
                f"{folder}: {HEAD} is not the embedding, with which {CONFIG} says it is tied; "
                f"{key} should be false there"
            )
    _check(found, dict(model.state_dict()), description.layout, folder)
    filled = {name: t.to(device, torch.float32).contiguous() for name, t in found.items()}
    if bad := nonfinite(filled):
        name, how = bad
        raise UserError(
            f"{folder}: {_named([name], description.layout)} has {how}: a model with it computes "
            "nothing; fetch the weights again, or take those of another step"
        )
    model.load_state_dict(filled, assign=True)
    if tied:
        model.lm_head.weight = model.backbone.embedding.weight
    return model.requires_grad_().eval(), description


def _check(
    found: dict[str, Tensor], wanted: dict[str, Tensor], layout: Layout, folder: Path
) -> None:
    """Raise UserError unless the tensors are just those of the model."""

    asked, there = _layers(wanted), _layers(found)
    if there and asked != there and there == set(range(len(there))):
        key = "num_hidden_layers" if layout is Layout.hf else "n_layer"
        raise UserError(
            f"{folder}: {CONFIG} asks for {key}={len(asked)}, the weights have {len(there)} "
            f"layers: put {key}={len(there)} there, or fetch both again if they are of two models"
        )
    if missing := [name for name in wanted if name not in found]:
        raise UserError(f"{folder}: the tensors lack {_named(missing, layout)}")
    if unknown := [name for name in found if name not in wanted]:
        raise UserError(f"{folder}: left over, no part of this model: {_named(unknown, layout)}")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"{folder}: {_named([name], layout)} has the shape {tuple(tensor.shape)}, "
                f"{CONFIG} asks for {tuple(wanted[name].shape)}"
            )
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise UserError(
                f"{folder}: {_named([name], layout)} is {tensor.dtype}: no float32 or bfloat16"
            )


def _named(tensors: list[str], layout: Layout) -> str:
    """The first three of some tensors, as the layout names them."""
    if layout is Layout.hf:
        tensors = [name.replace(OURS, THEIRS, 1) for name in tensors]
    more = f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
    return ", ".join(map(escaped, tensors[:3])) + more


def _layers(tensors: dict[str, Tensor]) -> set[int]:
    """The numbers of the layers that tensors belong to."""
    found = (re.match(r"backbone\.layers\.(\d+)\.", name) for name in tensors)
    return {int(match[1]) for match in found if match}
