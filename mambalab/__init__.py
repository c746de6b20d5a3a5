"""mambalab: train and compare Mamba and Transformer models on small sequence benchmarks.

As a library: `load` reads a trained or published language model, `model_settings` makes the
settings of `mambalab.models`, `mambalab.ops` holds the operators. Nothing here imports torch
before it is used.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for typing's, which would be slow to import
if TYPE_CHECKING:
    from mambalab.api import load, model_settings

__version__ = "0.1.0"
__all__ = ["__version__", "load", "model_settings"]


def __getattr__(name: str) -> object:
    if name in ("load", "model_settings"):
        return getattr(import_module("mambalab.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
