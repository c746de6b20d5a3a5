"""PyTorch's pickles: read only as far as they are tables of tensors; nothing in them is called."""

import pickle
import struct
import warnings
from pathlib import Path

import torch
from torch import Tensor

from mambalab.errors import UserError

_ELSEWHERE = "take the model.safetensors of this model, or convert it where you trust it"
AGAIN = "delete it and fetch it again"


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict that torch.save wrote, on the CPU.

    Raises:
        UserError: it is damaged, cut short, something else, or holds code.
    """
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
        struct.error,
    ):
        raise UserError(f"{path} is damaged or cut short: {AGAIN}") from None
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise UserError(f"{path} is no state dict: a table of names and tensors is wanted")
    return content


def _refusal(path: Path) -> UserError:
    """Why torch does not read a file without running what it holds."""
    unreadable = UserError(
        f"{path} is pickled in a way that cannot be read without running it: {_ELSEWHERE}"
    )
    try:
        code = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except pickle.UnpicklingError:  # of a protocol that torch.save does not write by itself
        return unreadable
    except ValueError:  # no zip file: an old one of PyTorch's, a bare pickle, or anything
        with path.open("rb") as file:
            start = file.read(3)
        if len(start) == 3 and start[:1] == pickle.PROTO:
            return unreadable
        return UserError(f"{path} is damaged, or no file of PyTorch's: {AGAIN}")
    if not code:
        return unreadable
    return UserError(f"{path} holds code ({code[0]}), which is not run here: {_ELSEWHERE}")
