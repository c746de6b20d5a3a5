"""Which process wrote this, and does it still live? Files and MLflow tags outlive a `kill -9`.

Also ends this process though a thread hangs.
"""

import logging
import os
import site
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_abandoned: list[threading.Thread] = []


def identity() -> dict[str, Any]:
    """Name this process among all: `host`, `pid`, and `born`, which tells reused pids apart."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def alive(record: Mapping[str, Any]) -> bool | None:
    """Tell whether the process that wrote `identity()` into a record still lives.

    Args:
        record: anything with `host`, `pid` and perhaps `born`; numbers may be text.

    Returns:
        None if that cannot be known here: another host, or no such entries.
    """
    if record.get("host") != socket.gethostname():
        return None
    try:
        pid = int(record["pid"])
    except (KeyError, TypeError, ValueError):
        return None
    if pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process: it lives, `born` says whether it is the one
    now, then = _born(pid), record.get("born")
    if now == "dead":
        return False
    return not now or not then or str(then) == now


def python_path() -> str:
    """Return the PYTHONPATH with which a new process finds this very mambalab."""
    home = str(Path(__file__).resolve().parents[2])
    # An installed one it finds anyhow; PYTHONPATH would put all packages before Python's own.
    ours = [] if home in site.getsitepackages() else [home]
    return os.pathsep.join([*ours, *filter(None, [os.environ.get("PYTHONPATH")])])


def exists(pid: int) -> bool:
    """Whether this machine has a living process of this id."""
    return alive({"host": socket.gethostname(), "pid": pid}) is True


def abandon(thread: threading.Thread) -> None:
    """Note that nobody waits for a thread any more: the process may end while it hangs."""
    _abandoned.append(thread)


def leave(status: int) -> NoReturn:
    """End the process with an exit status, at once if an abandoned thread still hangs.

    Python's own end would wait for what such a thread holds: 20 s for a locked SQLite store.
    """
    if any(thread.is_alive() for thread in _abandoned):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # closed, or a full disk
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _born(pid: int) -> str:
    """Return the start of a process in clock ticks since boot; `dead` for a zombie, or empty."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""  # not Linux: the pid alone must do
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return "dead" if fields[0] in "ZX" else fields[19]
