"""Sizes of tiles and segments of the Triton scan kernels, and tensors as they read them.

Everything follows from shapes and the device, so that results repeat to the last bit.
"""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import triton
from torch import Tensor

from mambalab.ops.common import contiguous_rows

CHUNK = 64  # steps between two saved states
COMPILED: dict[str, Any] = {"enable_fp_fusion": True}
"""Options of every launch: a * b + c is one instruction, whatever Triton's default is."""

_MIN_SEGMENT_STEPS = 512  # a shorter segment is not worth the second pass
_INTERPRETER = 4  # "schedulers" of Triton's interpreter

_Rest = ParamSpec("_Rest")
_Result = TypeVar("_Result")


def on_its_device(
    function: Callable[Concatenate[Tensor, _Rest], _Result],
) -> Callable[Concatenate[Tensor, _Rest], _Result]:
    """Make the GPU of a function's first tensor the current one while the function runs.

    Triton launches on the current GPU, whichever holds the tensors.
    """

    @functools.wraps(function)
    def guarded(first: Tensor, *args: _Rest.args, **kwargs: _Rest.kwargs) -> _Result:
        with torch.cuda.device_of(first):
            return function(first, *args, **kwargs)

    return guarded


@functools.cache
def schedulers(device: torch.device) -> int:
    """Count the warps that the device issues from at once."""
    if device.type != "cuda":
        return _INTERPRETER
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count


def segments(warps: int, length: int, device: torch.device, fill: int = 2, least: int = 3) -> int:
    """Choose the number of segments that give each scheduler about `fill` warps.

    It is one unless `least` are wanted: a second pass over the sequence has to pay.
    """
    wanted = fill * schedulers(device) // warps
    return max(1, min(wanted, length // _MIN_SEGMENT_STEPS)) if wanted >= least else 1


def vector(x: Tensor | None) -> Tensor | None:
    """Make D or delta_bias, (d,), contiguous: the kernels take no stride of theirs."""
    return None if x is None else x.contiguous()


def matrix(x: Tensor) -> Tensor:
    """View B or C as (b, l, g, n), with the last dimension contiguous; copied only if it is not."""
    x = contiguous_rows(x)
    return x if x.dim() == 4 else x.unsqueeze(2)


def tile(d_state: int) -> dict[str, Any]:
    """Choose the states of a tile and its warps: about as many registers for any d_state."""
    block_n = max(2, triton.next_power_of_2(d_state))
    return {"N": d_state, "BLOCK_N": block_n, "num_warps": max(1, block_n // 16)}
