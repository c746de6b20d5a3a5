"""Names of tensors as wrappers change them: torch.compile, FSDP, DataParallel, Lightning and others
put words before or between the parts of a name; MambaModel leaves `backbone.` out."""

import logging
from pathlib import Path

from torch import Tensor

from mambalab.errors import UserError, escaped

LOG = logging.getLogger("mambalab")
_BACKBONE, _HEAD = "backbone.", "lm_head."
FIRST_LAYER = "layers.0.mixer.A_log"
"""How a name ends that every Mamba has."""
# Words of PyTorch's own wrappers, which stand anywhere in a name and mean no module of a model's.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def unwrapped(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Name tensors as the model does: without wrappers' words, and from `backbone.` on.

    What is left out or put before is logged. Names without a common way to read them stay as they
    are: that they do not fit is for the caller to find.

    Raises:
        UserError: two models are in there, or two tensors would have one name.
    """
    renamed = {name: _without_wrappers(name) for name in tensors}
    roots = {
        n.removesuffix(FIRST_LAYER) for n in renamed.values() if f".{n}".endswith(f".{FIRST_LAYER}")
    }
    if len(roots) > 1:
        raise UserError(
            f"{folder} holds several models, behind {' and '.join(map(repr, sorted(roots)))}: "
            "save one of them alone"
        )
    for root in roots:
        renamed = {name: _from_root(new, root) for name, new in renamed.items()}
    found: dict[str, Tensor] = {}
    for name, new in renamed.items():
        if new in found:
            twin = next(other for other, same in renamed.items() if same == new)
            raise UserError(
                f"{folder}: {escaped(twin)} and {escaped(name)} are one tensor: drop one"
            )
        found[new] = tensors[name]
    if changed := next((pair for pair in renamed.items() if pair[0] != pair[1]), None):
        LOG.info("%s: tensors are taken by other names, %s as %s", folder, *map(escaped, changed))
    return found


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _from_root(name: str, root: str) -> str:
    """A name without what stands before `backbone.`, or with it where the root has none."""
    if root.endswith(_BACKBONE):
        return name.removeprefix(root.removesuffix(_BACKBONE))
    rest = name.removeprefix(root)
    inside = name.startswith(root) and not rest.startswith(_HEAD)
    return _BACKBONE + rest if inside else rest
