"""The jobs of a sweep as forks of the warm process, too.

A sweep starts each job as a new Python, which imports for seconds. Here a helper with one thread,
forked before the sweep begins, forks the jobs in its stead. All else is as with real processes:
each job has a session, an output and a pipe to the sweep of its own.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from tests.faults.process import be


def fork_jobs() -> None:
    """Before a sweep: let it fork its jobs instead of starting them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        try:
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()

    from mambalab.sweep import processes

    class ForkedProcess:
        """Stands for the part of `subprocess.Popen` that a sweep uses."""

        def __init__(
            self,
            words: Sequence[str],
            *,
            stdin: int,
            stdout: int | None,
            stderr: int | None,
            env: dict[str, str],
            start_new_session: bool,
            pass_fds: Sequence[int],
        ) -> None:
            assert stdin == subprocess.PIPE
            assert start_new_session
            assert not pass_fds
            read, write = os.pipe()
            os.set_inheritable(write, False)
            order = pickle.dumps(("start", [*words][words.index("__job") :], env, os.getcwd()))
            files = [read, 1 if stdout is None else stdout, 2 if stderr is None else stderr]
            socket.send_fds(ours, [order], files)
            os.close(read)
            self.pid = pickle.loads(ours.recv(1000))
            self.stdin = os.fdopen(write, "wb")
            self.returncode: int | None = None

        def poll(self) -> int | None:
            """Exit status, -N if killed by signal N, None while it runs."""
            if self.returncode is None:
                ours.send(pickle.dumps(("poll", self.pid)))
                self.returncode = pickle.loads(ours.recv(1000))
            return self.returncode

        def send_signal(self, number: int) -> None:
            """Send a signal, unless it has ended."""
            if self.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)

    processes.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=ForkedProcess, PIPE=subprocess.PIPE
    )


def _serve(theirs: socket.socket) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        order, files, *_ = socket.recv_fds(theirs, 1_000_000, 3)
        if not order:
            return
        answer: Any
        match pickle.loads(order):
            case ("start", words, env, folder):
                answer = _start(words, env, folder, files, theirs)
            case ("poll", pid):
                ended, status = os.waitpid(pid, os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if ended else None
        for file in files:
            os.close(file)
        theirs.send(pickle.dumps(answer))


def _start(
    words: list[str], env: dict[str, str], folder: str, files: list[int], theirs: socket.socket
) -> int:
    pid = os.fork()
    if pid == 0:
        theirs.close()
        os.setsid()
        os.environ.clear()
        os.environ.update(env)
        be(words, folder, files)
    return pid
