"""Which way an operator takes: past torch's dispatcher, through it, or by plain operations.

Calling a custom operator costs about 50 microseconds: nothing in training, more than the work
itself when one token is decoded at a time.

The compiled operators have a derivative of the ordinary kind, a backward. Torch's other kinds
(forward mode, and `torch.func` with all it nests) go through plain operations, which have them all.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_PLAIN = (Tensor, torch.nn.Parameter)
_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_transforms = _functorch.peek_interpreter_stack
_announced: set[str] = set()


def transforming() -> bool:
    """True inside a functorch transform (vmap, grad, jvp ...) or where dual tensors exist."""
    if forward_ad._current_level >= 0:
        return True
    return not torch.compiler.is_compiling() and _transforms() is not None


def plain_needed() -> bool:
    """True where a derivative is asked for that the compiled operators lack; says so once.

    That is forward mode (dual tensors, `torch.func.jvp`, `jacfwd`) and `torch.func.grad`, `vjp`
    and `jacrev`, alone or inside vmap; vmap alone can call an operator once for each sample.
    """
    if not transforming():
        return False
    if forward_ad._current_level < 0:
        kinds = {layer.key().name for layer in _functorch.get_interpreter_stack()}
        if kinds <= {"Vmap", "Functionalize"}:
            return False
    _announce("forward-mode and torch.func derivatives are computed")
    return True


def _announce(what: str) -> None:
    """Warn, once a process, that plain operations take the place of the compiled ones."""
    if not torch.compiler.is_compiling() and what not in _announced:
        _announced.add(what)
        message = f"mambalab: {what} by plain PyTorch operations, step by step: right, but slow"
        warnings.warn(message, stacklevel=4)


def plain_backward_needed() -> bool:
    """True in a backward whose gradients will be differentiated, in either mode.

    That is `create_graph=True`, or gradients of outputs that carry tangents (forward over reverse).
    """
    return torch.is_grad_enabled() or plain_needed()


def plain_gradients(
    function: Callable[..., Sequence[Tensor]],
    tensors: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Compute gradients that can themselves be differentiated, in either mode; says so once.

    Args:
        function: maps `tensors` to outputs by plain operations.
        tensors: arguments of the operator.
        grads: gradients of the outputs, None where one is zero.

    Returns:
        A gradient for each of `tensors`, None where none is wanted.
    """
    again = torch.is_grad_enabled()
    if again:
        _announce("derivatives of derivatives (create_graph=True) are computed")
    device = next(x.device.type for x in tensors if x is not None)
    with torch.enable_grad(), torch.autocast(device, enabled=False):
        # New views: a path from one argument to another outside the operator is not ours to follow.
        own = [None if x is None else x.view_as(x) for x in tensors]
        wanted = [x for x in own if x is not None and x.requires_grad]
        outputs = function(*own)
        pairs = [pair for pair in zip(outputs, grads, strict=True) if pair[1] is not None]
        found = torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [grad for _, grad in pairs],
            create_graph=True,  # tangents, too, need formulas made of plain operations
            allow_unused=True,
        )
    if not again:  # out of the graph; `detach` would drop the tangents
        found = [None if grad is None else grad.clone() for grad in found]
    of = {id(x): grad for x, grad in zip(wanted, found, strict=True)}
    return [of.get(id(x)) for x in own]


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
