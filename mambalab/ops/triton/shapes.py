"""Sizes of tiles and segments of the Triton scan kernels, and tensors as they read them.

Everything follows from shapes and the device, so that results repeat to the last bit.
"""

import functools
from typing import Any

import torch
import triton
from torch import Tensor

CHUNK = 64  # steps between two saved states
_MIN_SEGMENT_STEPS = 512  # a shorter segment is not worth the second pass


@functools.cache
def _schedulers(device: torch.device) -> int:
    """Count the warps that the device issues from at once."""
    if device.type != "cuda":
        return 4  # Triton's interpreter
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count


def segments(programs: int, length: int, device: torch.device) -> int:
    """Choose the number of segments: one if `programs` warps fill the device without more."""
    wanted = 2 * _schedulers(device) // programs
    return max(1, min(wanted, length // _MIN_SEGMENT_STEPS)) if wanted > 2 else 1


def vector(x: Tensor | None) -> Tensor | None:
    """Make D or delta_bias, (d,), contiguous: the kernels take no stride of theirs."""
    return None if x is None else x.contiguous()


def matrix(x: Tensor) -> Tensor:
    """Convert B or C to (b, l, g, n) float32, contiguous."""
    x = x.float().contiguous()
    return x if x.dim() == 4 else x.unsqueeze(2)


def tile(d_state: int) -> dict[str, Any]:
    """Choose the states of a tile and its warps: about as many registers for any d_state."""
    block_n = max(2, triton.next_power_of_2(d_state))
    return {"N": d_state, "BLOCK_N": block_n, "num_warps": max(1, block_n // 16)}
