"""A disk that fills up: a small tmpfs in a mount namespace that only this process sees."""

import ctypes
import os
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REMOUNT, MS_REC, MS_PRIVATE = 32, 16384, 1 << 18


def mount(folder: Path, size_bytes: int) -> bool:
    """Mount a tmpfs of this size at a folder; returns whether the system lets us.

    Root makes a mount namespace, anybody else a user namespace first, where the system has those.
    It must be called in a process with one thread, and goes with the last process in it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if uid else 0)):
        return False
    if uid:
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        except OSError:
            return False
    if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes}".encode()
    return not libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options)


def resize(folder: Path, size_bytes: int) -> None:
    """Give a mounted tmpfs another size; raises OSError if that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size_bytes}".encode()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", MS_REMOUNT, options):
        raise OSError(ctypes.get_errno(), f"cannot resize {folder}")
