"""When an operator may run its implementation at once, past torch's dispatcher.

Calling a custom operator costs about 50 microseconds: nothing in training, more than the work
itself when one token is decoded at a time.
"""

from typing import Any

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)
_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_transforms = _functorch.peek_interpreter_stack


def unobserved(*tensors: Tensor | None) -> bool:
    """Whether nobody records, transforms or imitates the operations on these plain tensors.

    That is: no compilation or export, no tracing, no dispatch mode (fake tensors, proxies), no
    transform such as vmap, no tensor subclass, no meta tensor. The caller knows that no gradient is
    wanted.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if torch._C._len_torch_dispatch_stack() or _transforms() is not None:
        return False
    return all(x is None or (type(x) in _PLAIN and not x.is_meta) for x in tensors)
