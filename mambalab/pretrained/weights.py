"""Tensors of a checkpoint folder: safetensors or PyTorch's pickles, whole or in shards."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mambalab.errors import UserError
from mambalab.tasks.hub_models import read_json

WHOLE = ("model.safetensors", "pytorch_model.bin")
_POINTER = b"version https://git-lfs"
INDEX = ".index.json"  # appended to one of these names: a table of shards


def shards(index: Path) -> list[str]:
    """Names of the files that an index names, each once.

    Raises:
        UserError: no such index, or a name that leaves its folder.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UserError(f"{index} is damaged: it has no weight_map")
    names = sorted({str(name) for name in table.values()})
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{index} names {name!r}, which is no file beside it")
    return names


def files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's tensors; an empty list if there is none.

    Raises:
        UserError: a shard is missing.
    """
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / (name + INDEX)
        if index.is_file():
            found = [folder / shard for shard in shards(index)]
            if absent := [path for path in found if not path.is_file()]:
                raise UserError(f"{absent[0]} is missing: {index.name} names it")
            return found
    return []


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, on the CPU; nothing in it is executed.

    Raises:
        UserError: no weights, a missing shard, a damaged file, a pickle that holds code.
    """
    found = files(folder)
    if not found:
        names = " nor ".join(WHOLE)
        raise UserError(f"{folder} holds no weights: there is neither {names}")
    tensors: dict[str, Tensor] = {}
    for path in found:
        _check_pointer(path)
        tensors |= _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    return tensors


def _check_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{path} only points at the file: fetch that with git lfs pull")


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or cut short: {_line(error)}") from None


def _pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch names the function or class that it would have to call.
        if "GLOBAL" not in str(error):
            raise UserError(f"{path} is damaged, or no file of PyTorch's") from None
        raise UserError(
            f"{path} holds code, which is not run here: take the model.safetensors of this model, "
            "or convert it where you trust it"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged or cut short: {_line(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise UserError(f"{path} is no state dict: a table of names and tensors is wanted")
    return content


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "").rstrip(". ") or type(error).__name__
