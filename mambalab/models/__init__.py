"""Models: layers, dropout, backbone, heads.

`Mamba` is the mixer and `MambaBlock` the residual block around it; both are imported when used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambalab.models.backbone import MambaBlock
    from mambalab.models.mamba import Mamba

__all__ = ["Mamba", "MambaBlock"]


def __getattr__(name: str) -> Any:
    """Import `Mamba` or `MambaBlock`, and with it torch, at first use."""
    places = {"Mamba": "mambalab.models.mamba", "MambaBlock": "mambalab.models.backbone"}
    if name in places:
        return getattr(import_module(places[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
