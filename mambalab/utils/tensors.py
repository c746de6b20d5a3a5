"""Writes tensors as safetensors, with the access rights of any other new file."""

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
