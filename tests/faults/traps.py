"""What a child does to itself: it counts what it does to files, and dies or fails at a chosen one.

The interpreter reports each file that is opened, renamed, made or removed to an audit hook before
it happens; an exception of the hook stands for the system's own error. What C code does by itself
(SQLite, the bytes that torch writes) goes unseen: real limits and small disks are for those.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENTS = frozenset(
    ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
)
WRITES = frozenset(("open", "os.rename", "os.mkdir"))


def _below(folder: str, args: tuple[Any, ...]) -> bool:
    """Whether the event is about a file below the folder."""
    for value in args[:2]:
        if isinstance(value, bytes):
            value = os.fsdecode(value)
        if isinstance(value, str | os.PathLike) and os.path.abspath(value).startswith(folder):
            return True
    return False


def _writes(event: str, args: tuple[Any, ...]) -> bool:
    if event != "open":
        return event in WRITES
    mode, flags = args[1], args[2] if len(args) > 2 else 0
    if isinstance(mode, str):
        return any(c in mode for c in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def on_event(
    folder: Path, number: int, action: Callable[[], object], *, writes: bool = False
) -> Callable[[], None]:
    """A trap: `action` is called at the `number`-th event (from 1) on files below `folder`.

    Args:
        folder: what to watch.
        number: of the event.
        action: what then happens; an exception of it becomes that of the event.
        writes: count only what makes or changes a file.
    """

    def arm() -> None:
        seen, inside = [0], str(folder)
        here = os.getpid()

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event not in EVENTS or os.getpid() != here or not _below(inside, args):
                return
            if writes and not _writes(event, args):
                return
            seen[0] += 1
            if seen[0] == number:
                action()

        sys.addaudithook(hook)

    return arm


def counting(folder: Path, counts: Path) -> Callable[[], None]:
    """A trap that only counts: all events and those that write, into the file `counts`."""

    def arm() -> None:
        seen = [0, 0]
        file = os.open(counts, os.O_WRONLY | os.O_CREAT, 0o666)

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event in EVENTS and _below(str(folder), args):
                seen[0] += 1
                seen[1] += _writes(event, args)
                os.pwrite(file, b"%d %d" % (*seen,), 0)

        sys.addaudithook(hook)

    return arm


def when_renamed(name: str, number: int, action: Callable[[], object]) -> Callable[[], None]:
    """A trap: `action` at the `number`-th event after a file or folder was renamed to `name`.

    A number of 0 is the rename itself, before it happens.
    """

    def arm() -> None:
        left: list[int] = []
        here = os.getpid()

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if os.getpid() != here:
                return
            if left and event in EVENTS:
                left[0] -= 1
                if left[0] == 0:
                    action()
            elif event == "os.rename" and os.path.basename(os.fsdecode(args[1])) == name:
                left.append(number)
                if number == 0:
                    action()

        sys.addaudithook(hook)

    return arm


def signal_self(number: int) -> Callable[[], None]:
    """An action: the process sends itself a signal."""
    return lambda: os.kill(os.getpid(), number)


die = signal_self(signal.SIGKILL)


def fail_with(code: int) -> Callable[[], None]:
    """An action: the event fails with this errno."""

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


def failing_from(
    folder: Path, first: int, code: int, *, times: int | None = None
) -> Callable[[], None]:
    """A trap: from the `first`-th write below `folder` on, writes fail (`times`: that many)."""

    def arm() -> None:
        seen, here = [0], os.getpid()

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event not in EVENTS or os.getpid() != here or not _below(str(folder), args):
                return
            if not _writes(event, args):
                return
            seen[0] += 1
            if seen[0] >= first and (times is None or seen[0] < first + times):
                raise OSError(code, os.strerror(code))

        sys.addaudithook(hook)

    return arm


def clock_jump(after: float, by: float) -> Callable[[], None]:
    """A trap: after so many seconds the clock jumps by `by` seconds."""

    def arm() -> None:
        real = time.time

        def jump() -> None:
            time.sleep(after)
            time.time = lambda: real() + by

        threading.Thread(target=jump, daemon=True).start()

    return arm


def both(*traps: Callable[[], object]) -> Callable[[], None]:
    """Several traps as one."""

    def arm() -> None:
        for trap in traps:
            trap()

    return arm
