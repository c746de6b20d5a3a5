"""Hears a stop within one long batch: between two layers forwards, and two operations backwards.

Only steps that are long are listened to, by the length of the one before, and the first of a
session: short ones have no hooks, and end whole. A linear layer has none ever: with one it would
be called in another way (`models.layers.as_built`), and numbers differ in their last bits.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from mambalab.train.progress import StoppedError

GRACE_SECONDS = 5.0  # a batch that takes less is finished though a stop was asked for
LONG_SECONDS = 1.0  # the step after one as long as this is listened to


@contextmanager
def listening(
    model: nn.Module, stop_requested: Callable[[], str | None], active: bool = True
) -> Iterator[Callable[[Tensor], None]]:
    """Give up a batch that is computed inside the block when a stop is asked for.

    Computes nothing, so that the numbers stay the same to the last bit.

    Args:
        model: in training mode and not compiled, which hooks would have done again.
        stop_requested: returns the name of a signal once the user asked the run to stop.
        active: False does nothing.

    Yields:
        To be called with the loss before its `backward`: that is listened to, then.

    Raises:
        StoppedError: from within forward or backward, when the block has taken longer than
            `GRACE_SECONDS`.
    """
    ends = time.monotonic() + GRACE_SECONDS

    def check(*_: Any) -> None:
        if time.monotonic() > ends and (name := stop_requested()):
            raise StoppedError(name)

    hooks = ExitStack()

    def before_each_operation(loss: Tensor) -> None:
        todo: list[Any] = [loss.grad_fn] if active else []
        seen = set(todo)
        while todo:
            node = todo.pop()
            if node is not None and not hasattr(node, "variable"):  # a weight outlives its batch
                hooks.callback(node.register_prehook(check).remove)
                new = {after for after, _ in node.next_functions} - seen
                seen |= new
                todo += new

    with hooks:
        for module in model.modules() if active else ():
            if type(module) is not nn.Linear:
                hooks.callback(module.register_forward_pre_hook(check).remove)
        yield before_each_operation
