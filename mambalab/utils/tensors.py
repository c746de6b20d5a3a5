"""Tables of tensors: written as safetensors with the access rights of any other new file, searched
for what is no number."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def save(tensors: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` (contiguous, on the CPU, none sharing memory) to `path`.

    Raises:
        OSError, safetensors.SafetensorError: it cannot be written.
    """
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode & 0o777  # as the umask has it; the library's file is its owner's
    save_file(tensors, path, metadata=metadata)
    path.chmod(mode)


def nonfinite(tensors: Mapping[str, Any]) -> tuple[str, str] | None:
    """Find the first tensor with NaN or Inf: its name, and how many values of it are NaN or Inf."""
    for name, tensor in tensors.items():
        # A sum is fast and misses nothing; it may overflow, so what it finds is looked at again.
        if not tensor.is_floating_point() or bool(tensor.sum().isfinite()):
            continue
        for what, bad in (("NaN", tensor.isnan()), ("Inf", tensor.isinf())):
            if count := int(bad.sum()):
                return name, f"{what} in {count:,} of {tensor.numel():,} values"
    return None
