"""Memory that runs out, told in one line instead of a traceback.

Every library has its own exception for it, some none but a text.
"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mambalab.errors import UserError, first_line

ADVICE = (
    "lower task.batch_size (and raise trainer.grad_accum as much, which trains the same), "
    "task.seq_len, or the model's size (model.d_model, model.n_layer)"
)
# What RuntimeErrors without a type of their own say: torch on the CPU, its copies of std::bad_alloc
# and of what C++ says where a size is beyond all numbers or no thread can be made, oneDNN, cuBLAS,
# and Python where no memory is left for a thread.
_TEXTS = (
    "can't allocate memory",
    "Cannot allocate memory",
    "bad_alloc",
    "bad array new length",
    "Storage size calculation overflowed",
    "cannot create std::vector larger than max_size",
    "vector::_M_",
    "Resource temporarily unavailable",
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory object",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't start new thread",
)
# What an ImportError says where the loader of shared libraries finds no memory.
_LIBRARY_TEXTS = ("failed to map segment", "Cannot allocate memory", "cannot allocate memory")
_CUDA_MEMORY = 2  # cudaErrorMemoryAllocation


def shortage(error: BaseException) -> str | None:
    """Say in one line what to lower if an exception means that memory ran out; else None."""
    torch = sys.modules.get("torch")
    if isinstance(error, OSError):
        short = error.errno == errno.ENOMEM
    elif torch is not None and isinstance(error, torch.AcceleratorError):
        short = getattr(error, "error_code", None) == _CUDA_MEMORY
    elif isinstance(error, ImportError | RuntimeError) and not _is_torchs(error):
        texts = _LIBRARY_TEXTS if isinstance(error, ImportError) else _TEXTS
        short = any(text in str(error) for text in texts)
    else:
        short = isinstance(error, MemoryError) or _is_torchs(error)
    if not short:
        return None
    where = "the GPU's memory" if torch and isinstance(error, torch.OutOfMemoryError) else "memory"
    said = first_line(error)
    return f"out of {where} ({said[:120]}): {ADVICE}"


def _is_torchs(error: BaseException) -> bool:
    """Whether it is torch's own exception for a GPU without memory; imports no torch."""
    return type(error).__name__ == "OutOfMemoryError"


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Turn an exception of the block that means that memory ran out into a UserError.

    Raises:
        UserError: memory ran out; says what to lower.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or (line := shortage(error)) is None:
            raise
        raise UserError(line) from error
