"""Folders for what can be made again: the user's cache, or a temporary folder of one's own."""

import os
import stat
import tempfile
from pathlib import Path


def home_is_known() -> bool:
    """Whether there is a home folder; without, `~` would become the name of a folder."""
    return os.path.isabs(os.path.expanduser("~"))


def private_folder(name: str) -> Path | None:
    """The folder `mambalab-NAME-UID` among temporary files, made if need be; nobody else can write
    there, or read.

    Returns:
        None if there is none: no room, or somebody else's folder has that name.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"mambalab-{name}-{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == user
    return folder if own and not found.st_mode & 0o077 and os.access(folder, os.W_OK) else None


def cache_folder(name: str) -> Path:
    """The folder `mambalab/NAME` in the user's cache, there or not: below `$XDG_CACHE_HOME`, else
    `~/.cache`, else a temporary one."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    # The specification wants relative paths ignored.
    if os.path.isabs(root):
        base = Path(root)
    elif home_is_known():
        base = Path(os.path.expanduser("~"), ".cache")
    else:  # a user without an entry in passwd and without HOME, as in some containers
        base = private_folder("cache") or Path(tempfile.mkdtemp(prefix="mambalab-"))
    return base / "mambalab" / name
