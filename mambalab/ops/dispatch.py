"""When an operator may call its implementation directly, past torch's dispatcher.

Calling a custom operator costs about 50 microseconds: nothing in training, more than the work
itself when one token is decoded at a time.
"""

from typing import Any

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)
_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_transforms = _functorch.peek_interpreter_stack


def can_bypass_dispatcher(*tensors: Tensor | None) -> bool:
    """True if no torch.compile, tracing, functorch transform, dispatch mode or subclass is active.

    Covers export, fake tensors and proxies (dispatch modes), vmap (a transform) and meta tensors;
    None stands for an absent tensor. Gradients are not looked at: the caller must know that none
    is wanted.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if torch._C._len_torch_dispatch_stack() or _transforms() is not None:
        return False
    return all(x is None or (type(x) in _PLAIN and not x.is_meta) for x in tensors)
