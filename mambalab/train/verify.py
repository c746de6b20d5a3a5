"""Checks that the files of a checkpoint are those that were written, before any is parsed.

The manifest has size and SHA-256 of every other file, and a checksum of its own content. Those of
older versions lack the latter, the oldest the SHA-256, too.
"""

import errno
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from mambalab.utils import files

CHECKSUM = "checksum"  # of the manifest's other entries
MAX_MANIFEST_BYTES = 64 << 20
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


class BrokenError(Exception):
    """What is wrong with the bytes of a checkpoint, one clause."""


def checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest's entries but its checksum, in hexadecimal digits."""
    entries = json.loads(json.dumps({k: v for k, v in manifest.items() if k != CHECKSUM}))
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def manifest(path: Path, step: int) -> dict[str, Any]:
    """Read the manifest of a checkpoint.

    Args:
        path: of the file.
        step: by which the checkpoint is named.

    Raises:
        BrokenError: it is not what was written, or that of another step.
        OSError: it cannot be read, or is not there.
    """
    _check_regular(path)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BrokenError(f"cannot read the checkpoint {path}: it is too large")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BrokenError(f"cannot read the checkpoint {path}: {error}") from error
    parts = {"files": dict, "facts": dict, "step": int}
    if not isinstance(found, dict) or any(
        not isinstance(found.get(name), kind) for name, kind in parts.items()
    ):
        raise BrokenError(f"cannot read the checkpoint {path}: it lacks an entry")
    # This version's facts name the run: a manifest that does so had all entries once.
    ours = CHECKSUM in found or "run" in found["facts"]
    if ours and found.get(CHECKSUM) != checksum(found):
        raise BrokenError(
            f"the checkpoint {path} is damaged: its entries are not those that were written"
        )
    if found["step"] != step:
        raise BrokenError(
            f"the checkpoint {path.parent} was renamed: it is of step {found['step']}"
        )
    return found


def check_files(folder: Path, manifest: dict[str, Any], known: set[str]) -> bool:
    """Compare the files of a checkpoint with its manifest.

    Args:
        folder: of the checkpoint.
        manifest: as `manifest` returned it.
        known: names of files that a checkpoint may have.

    Returns:
        Whether checksums cover them all.

    Raises:
        BrokenError: a file is cut short or damaged, or one that no checkpoint has.
        OSError: a file cannot be read, or is not there.
    """
    sizes, sums = manifest["files"], manifest.get("sha256", {})
    if not isinstance(sums, dict) or not sizes.keys() | sums.keys() <= known:
        raise BrokenError(f"the checkpoint {folder} is damaged: its manifest names other files")
    for name, size in sizes.items():
        _check_regular(folder / name)
        if (actual := (folder / name).stat().st_size) != size:
            raise BrokenError(
                f"the checkpoint {folder / name} is cut short: {actual} of {size} bytes"
            )
    for name, expected in sums.items():
        _check_regular(folder / name)
        if files.sha256(folder / name) != expected:
            raise BrokenError(
                f"the checkpoint {folder / name} is damaged: its bytes are not those that were "
                f"written"
            )
    return sums.keys() == sizes.keys()


def _check_regular(path: Path) -> None:
    """Raise BrokenError for what is no file, such as a pipe, and OSError for what is absent."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise BrokenError(f"cannot read the checkpoint {path}: it is no file")
