"""PyTorch's pickles: read only as far as they are tables of tensors; nothing in them is called.

What a refused file would call is found by hand: torch.serialization's
`get_unsafe_globals_in_checkpoint` reads neither files older than PyTorch 1.6, nor bare pickles, nor
other protocols than 2 and 3, which are those that code comes in.
"""

import logging
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mambalab.errors import UserError, escaped
from mambalab.pretrained.names import FIRST_LAYER
from mambalab.utils.reading import check_unpacked_size

# What PyTorch's own pickles of tensors call.
_HARMLESS = ("torch.", "collections.OrderedDict", "_codecs.encode", "numpy.")
LOG = logging.getLogger("mambalab")
_MAX_DEPTH = 3  # tables in tables that are looked through for one of tensors
_MAX_KEY_CHARS = 80  # of what is shown of a name that is no text
_ELSEWHERE = "take the model.safetensors of this model, or convert it where you trust it"
AGAIN = "delete it and fetch it again"


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict that torch.save wrote, on the CPU.

    Raises:
        UserError: it is damaged, cut short, something else, or holds code.
    """
    check_unpacked_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: refused below, if it must be
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _refusal(path) from None
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        struct.error,
    ):
        raise UserError(f"{path} is damaged or cut short: {AGAIN}") from None
    table = _table(content, path)
    for name, tensor in table.items():
        if not isinstance(name, str):
            key = repr(name)[:_MAX_KEY_CHARS]
            raise UserError(f"{path}: {key} names a tensor: names must be texts; {_ELSEWHERE}")
        if why := _unreadable(tensor):
            raise UserError(f"{path}: {escaped(name)} {why}; {_ELSEWHERE}")
    return table


def _table(content: Any, path: Path) -> dict[str, Tensor]:
    """The one table of tensors in a file: all of it, or a part of what a training loop saved."""
    tables = dict(_tables(content, "", _MAX_DEPTH, set()))
    if len(tables) > 1:  # an optimiser's state, or averages, beside the weights
        like = {
            where: table
            for where, table in tables.items()
            if any(str(name).endswith(FIRST_LAYER) for name in table)
        }
        tables = like if len(like) == 1 else tables
    if len(tables) > 1:
        where = ", ".join(map(escaped, tables))
        raise UserError(f"{path} holds several tables of tensors, {where}: save one of them alone")
    for where, table in tables.items():
        if where:
            LOG.info("%s: the weights are those under %s", path, escaped(where))
        return table
    other = ""
    if isinstance(content, dict) and any(isinstance(t, Tensor) for t in content.values()):
        strange = next(key for key, value in content.items() if not isinstance(value, Tensor))
        other = f"; {escaped(str(strange))} is a {type(content[strange]).__name__}"
    raise UserError(f"{path} is no state dict: a table of names and tensors is wanted{other}")


def _tables(
    content: Any, where: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Tables of nothing but tensors in nested ones, each once, with the keys that lead there."""
    if not isinstance(content, dict) or not content or not depth or id(content) in seen:
        return
    seen.add(id(content))
    if all(isinstance(value, Tensor) for value in content.values()):
        yield where, content
        return
    for key, value in content.items():
        yield from _tables(value, f"{where}.{key}" if where else str(key), depth - 1, seen)


def _unreadable(tensor: Tensor) -> str | None:
    """Say why a tensor has no values that can be taken as they are; None if it has."""
    if tensor.is_meta:
        return "has no values (device meta), as after saving an offloaded model"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "is sparse or nested"
    return None


def _refusal(path: Path) -> UserError:
    """Why torch does not read a file without running what it holds."""
    names, ended = _called(path)
    if code := [name for name in names if not name.startswith(_HARMLESS)]:
        first = code[0] if code[0].isprintable() else ascii(code[0])
        return UserError(f"{path} holds code ({first}), which is not run here: {_ELSEWHERE}")
    if not names and not zipfile.is_zipfile(path):
        return UserError(f"{path} is damaged, or no file of PyTorch's: {AGAIN}")
    if not ended:
        return UserError(f"{path} is damaged or cut short: {AGAIN}")
    return UserError(
        f"{path} is pickled in a way that cannot be read without running it: {_ELSEWHERE}"
    )


def _called(path: Path) -> tuple[list[str], bool]:
    """Full names of the functions and classes that a file wants to call, as far as it can be read,
    and whether a pickle that wants any came to its end."""
    names: list[str] = []
    ended = False
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as whole:
                inside = next(n for n in whole.namelist() if n.endswith("data.pkl"))
                with whole.open(inside) as file:
                    names.extend(_names(file))
            ended = True
        else:
            with path.open("rb") as file:
                while True:  # older files: several pickles, one after the other, then bytes
                    names.extend(_names(file))
                    ended = bool(names)
    except Exception:  # the end of what can be told: damaged bytes fail in every way there is
        pass
    return names, ended


def _names(file: IO[bytes]) -> Iterator[str]:
    """Of one pickle, as they are met; see the table of opcodes in pickletools."""
    texts: list[str] = [""] * 2  # as they were put on the stack
    memo: dict[int, str] = {}
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif code.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif "PUT" in code.name or code.name == "MEMOIZE":
            memo[len(memo) if argument is None else int(argument)] = texts[-1]
        elif "GET" in code.name:
            texts.append(memo.get(int(argument or 0), ""))
        elif isinstance(argument, str):
            texts.append(argument)
