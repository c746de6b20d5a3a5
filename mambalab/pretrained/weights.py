"""Tensors of a checkpoint folder: safetensors or PyTorch's pickles, in one file or in shards."""

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mambalab.data.hub import read_json
from mambalab.errors import UserError
from mambalab.pretrained import pickles
from mambalab.pretrained.pickles import AGAIN

WHOLE = ("model.safetensors", "pytorch_model.bin")
_LFS_POINTER = b"version https://git-lfs"
_MAX_NAME_BYTES = 255  # of a file, in every usual file system
INDEX = ".index.json"  # appended to one of these names: a table of shards


def shards(index: Path) -> list[str]:
    """Read the names of the files in an index, each once.

    Raises:
        UserError: no such index, or a name that leaves its folder.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UserError(f"{index} is damaged: it has no weight_map")
    names = sorted({str(name) for name in table.values()})
    for name in names:
        plain = name.isprintable() and name not in ("", "..") and Path(name).name == name
        if not plain or len(os.fsencode(name)) > _MAX_NAME_BYTES:
            raise UserError(f"{index} names {name[:80]!r}, which is no file beside it")
    return names


def absence(path: Path) -> str:
    """Say that a file is missing, or that it is a link which leads nowhere."""
    if path.is_symlink():
        return f"{path} is a link to {os.readlink(path)!r}, where there is no file: bring it back"
    return f"{path} is missing"


def files(folder: Path) -> list[Path]:
    """List the files that hold a checkpoint's tensors; an empty list if there is none.

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
                raise UserError(f"{absence(absent[0])}: {index.name} names it")
            return found
    return []


def read(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint folder, on the CPU; nothing in it is executed.

    Raises:
        UserError: no weights, a missing shard, a damaged file, a pickle that holds code.
    """
    found = files(folder)
    if not found:
        for path in (folder / (name + end) for name in WHOLE for end in ("", INDEX)):
            if path.is_symlink():
                raise UserError(absence(path))
        names = " nor ".join(WHOLE)
        raise UserError(f"{folder} holds no weights: there is neither {names}")
    tensors: dict[str, Tensor] = {}
    for path in found:
        _check_readable(path)
        tensors |= _safetensors(path) if path.suffix == ".safetensors" else pickles.read(path)
    return tensors


def _check_readable(path: Path) -> None:
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read: make it readable for yourself")
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError(f"{path} only points at the file: fetch that with git lfs pull")


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        raise UserError(f"{path} is damaged or cut short: {AGAIN}") from None
