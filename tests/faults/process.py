"""Runs of the command line as processes forked from this one, which has imported everything.

A fork takes milliseconds where a new Python takes seconds, and a kill of it is a real kill.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

LIMIT_SECONDS = 600.0  # of one run; a tiny one takes a second or two on a quiet machine

Before = Callable[[], object]
"""What a child does first: it sets a limit, or a trap."""


class BrokenPromiseError(AssertionError):
    """A promise that the program did not keep; its text says which."""


@dataclass(frozen=True)
class Result:
    """How a process ended.

    Attributes:
        status: exit status; -N if signal N killed it.
        output: what it wrote on standard output and standard error.
        seconds: from its start to its end.
    """

    status: int
    output: str
    seconds: float

    @property
    def error(self) -> str:
        """The line of the error, or an empty text."""
        found = [x for x in self.output.splitlines() if x.startswith("mambalab: error")]
        return found[-1] if found else ""

    @property
    def line(self) -> str:
        """What a person remembers of the output: its error, else its last word of warning."""
        if self.error:
            return self.error
        marks = ("interrupted", "failed", "killed", "damaged", "lack", "MLflow at", "finished")
        lines = [x for x in self.output.splitlines() if any(mark in x for mark in marks)]
        return lines[-1] if lines else ""

    def says(self, *words: str) -> bool:
        """Whether the output holds one of the words, in small or capital letters."""
        return any(word.lower() in self.output.lower() for word in words)


class Child:
    """A process that runs one command.

    Args:
        argv: the words after `mambalab`.
        folder: its working directory.
        output: file for its standard output and error.
        before: called in it before the command.
    """

    def __init__(
        self, argv: list[str], folder: Path, output: Path, before: Before | None = None
    ) -> None:
        self.argv, self.output = argv, output
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            null = os.open(os.devnull, os.O_RDONLY)
            be(argv, folder, (null, file, file), before)
        self._result: Result | None = None

    def send(self, number: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self._result is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def poll(self) -> Result | None:
        """How it ended, or None while it runs."""
        if self._result is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._result = Result(
                    os.waitstatus_to_exitcode(status),
                    self.output.read_text(errors="replace"),
                    time.monotonic() - self.began,
                )
        return self._result

    def sleep(self, seconds: float) -> bool:
        """Wait that long, or until it ends; returns whether it still runs."""
        return self._until(seconds) is None

    def wait(self, limit: float = LIMIT_SECONDS) -> Result:
        """Wait for the end.

        Raises:
            BrokenPromiseError: it does not end within the limit (then it is killed), or a
                traceback stands in its output.
        """
        result = self._until(limit)
        if result is None:
            self.send(signal.SIGKILL)
            self._until(10)
            raise BrokenPromiseError(f"hangs: {' '.join(self.argv)} took more than {limit:.0f} s")
        if "Traceback" in result.output:
            last = [x for x in result.output.splitlines() if x and not x.startswith(" ")]
            errors = [x for x in last if "Error" in x or "Exception" in x] or last
            raise BrokenPromiseError(f"traceback: {errors[-1][:200]}")
        return result

    def _until(self, seconds: float) -> Result | None:
        end = time.monotonic() + seconds
        while (result := self.poll()) is None and time.monotonic() < end:
            time.sleep(0.003)
        return result


def be(
    argv: list[str], folder: Path | str, files: Sequence[int], before: Before | None = None
) -> NoReturn:
    """Become a command, in a process just forked; never returns.

    Args:
        argv: the words after `mambalab`.
        folder: the working directory.
        files: descriptors that become standard input, output and error.
        before: called before the command.
    """
    status = 70
    try:
        gc.enable()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # tqdm's own lock is shared by all forks: one that is killed while it holds it stops all.
        tqdm.set_lock(threading.RLock())
        os.chdir(folder)
        for target, source in enumerate(files):
            os.dup2(source, target)
        if before is not None:
            before()
        status = _call(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:  # before or after the command itself
        status = 130
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        status = 1
    finally:
        os._exit(status)
    raise AssertionError


def _call(argv: list[str]) -> int:
    from mambalab.cli import main

    return main.main(argv)
