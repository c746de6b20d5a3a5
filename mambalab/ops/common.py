"""What operators and backends share: constants, layouts, checks of dtypes."""

import math

from torch import Tensor

LOG2E = math.log2(math.e)
"""exp(x) = 2**(x * LOG2E): processors raise 2 to a power."""
LN2 = math.log(2.0)


def contiguous_rows(x: Tensor) -> Tensor:
    """The tensor itself if its last dimension is contiguous, else a contiguous copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def group_count(B: Tensor) -> int:
    """Groups of B or C: g of (b, l, g, n), one if they are (b, l, n)."""
    return B.shape[2] if B.dim() == 4 else 1


def check_real(**tensors: Tensor | None) -> None:
    """Raise ValueError, by name, for a complex tensor: it would lose its imaginary part."""
    for name, x in tensors.items():
        if x is not None and x.is_complex():
            raise ValueError(f"{name} must be real, not {x.dtype}")
