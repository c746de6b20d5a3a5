"""A sink: a tracker that is told what a run folder holds, in a thread beside the training.

It is fed by metrics.jsonl itself: about once a second it takes the lines that are new. So nothing
piles up in memory while a server is silent, and the training thread never waits for anything.
"""

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mambalab.tracking.note import Note
from mambalab.tracking.store_failure import NO_ANSWER, TOO_SLOW, StoreFailure, failure_of
from mambalab.utils import process
from mambalab.utils.patience import patient

PERIOD_SECONDS = 1.0  # between batches
PAUSE_SECONDS = (5.0, 15.0, 60.0)  # between attempts to reach a tracker that failed
LAST_ATTEMPTS, LAST_PAUSE_SECONDS = 3, 0.5  # at the end: a server may just have come back
# `finish` gives up after so long without progress: a server, or what is on this machine, which may
# have to be created first; and after so long in all.
REMOTE_PATIENCE_SECONDS, LOCAL_PATIENCE_SECONDS = patient(5.0), patient(30.0)
MAX_FINISH_SECONDS = patient(60.0)
# The same when somebody waits for the run to stop: a container is killed after ten seconds.
STOP_PATIENCE_SECONDS, MAX_STOP_SECONDS = patient(5.0), patient(8.0)


class _GivenUpError(Exception):
    """Ends the thread: nobody waits for it any more."""


@dataclass(frozen=True)
class Notice:
    """One line for the person.

    Attributes:
        text: the line.
        store_is_silent: whether all it says is that the store does not answer. Where several runs
            use one store, one of them need say so.
    """

    text: str
    store_is_silent: bool = False


class Sink(ABC):
    """Sends a run folder to one tracker while it grows.

    A kind of tracker says how by `note`, `place`, `is_open`, `open` and `advance`; these are called
    in the thread, may take seconds and raise anything: it is said once, written into the note, and
    tried again.

    Args:
        run_dir: the run folder, held by the caller until `finish` has returned.
        files: below it, to send first.
        sync_command: what a person types to send the run later.
        is_remote: whether a server on the network answers.
    """

    def __init__(
        self, run_dir: Path, files: Iterable[Path], *, sync_command: str, is_remote: bool
    ) -> None:
        self.run_dir = run_dir
        self.notices: queue.SimpleQueue[Notice] = queue.SimpleQueue()  # for the person, in order
        self._sync_command = sync_command
        self._is_remote = is_remote
        self._files: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._waiting: dict[Path, None] = dict.fromkeys(files)  # a set in order
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._end: tuple[str, int] | None = None
        self._ended = False
        self._progress = time.monotonic()
        self._failures = 0  # since the tracker took something last
        self._failure: StoreFailure | None = None  # the last one
        self._announced = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    # -- what a kind of tracker says -----------------------------------------------------------

    @property
    @abstractmethod
    def note(self) -> Note:
        """What the folder knows of this tracker."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Name the tracker in a line for the person."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether `open` has succeeded, and nothing since asks for another one."""

    @abstractmethod
    def open(self) -> None:
        """Reach the tracker; find the run there or create it."""

    @abstractmethod
    def advance(self, files: dict[Path, None], ended: tuple[str, int] | None) -> None:
        """Send all that is new.

        Args:
            files: below the run folder, in order; each is taken out when it has been sent.
            ended: how the run ended (FINISHED, FAILED, KILLED) and when (Unix milliseconds), or
                None while it goes on.
        """

    @property
    def sync_command(self) -> str:
        """What a person types to send the run later."""
        return self._sync_command

    # -- for the training thread ---------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    @property
    def is_silent(self) -> bool:
        """Whether the tracker did not answer when it was asked last."""
        failure = self._failure
        return self._failures > 0 and failure is not None and failure.is_silent

    def file(self, path: Path) -> None:
        """Send a file of the run folder soon; the latest version if it comes again."""
        self._files.put(path)

    def finish(
        self,
        status: str,
        hurried: Callable[[], object] = lambda: False,
        *,
        waited_for: bool | None = None,
    ) -> None:
        """Send what is left and the run's status; waits while that makes progress.

        A tracker that does not answer is given up after a few seconds; a message says so. A run
        that was asked to stop waits a few seconds at most for any tracker.

        Args:
            status: FINISHED, FAILED, or KILLED for a run that was asked to stop.
            hurried: whether somebody asks a run that ended otherwise to stop while this waits.
            waited_for: whether somebody waits for the run to stop; None = for one that is KILLED.
        """
        self._end = (status, round(1000 * time.time()))
        patience = REMOTE_PATIENCE_SECONDS if self._is_remote else LOCAL_PATIENCE_SECONDS
        longest = MAX_FINISH_SECONDS
        asked, in_hurry = time.monotonic(), False
        waiting = status == "KILLED" if waited_for is None else waited_for
        self._closing.set()
        while self._thread.is_alive():
            if not in_hurry and (waiting or hurried()):
                patience, longest = min(patience, STOP_PATIENCE_SECONDS), MAX_STOP_SECONDS
                asked, in_hurry = time.monotonic(), True
            self._thread.join(0.1)
            now = time.monotonic()
            silent = now - max(self._progress, asked) > patience
            if self._thread.is_alive() and (silent or now - asked > longest):
                self._given_up.set()
                process.abandon(self._thread)
                self._note_failure(NO_ANSWER if silent else TOO_SLOW)
                return
        if self._ended and self._announced:
            self._tell(f"{self.place} has the whole run after all")

    # -- in the thread -------------------------------------------------------------------------

    def _tick(self) -> None:
        """Note progress; ends the thread if nobody waits for it any more."""
        if self._given_up.is_set():
            raise _GivenUpError
        self._progress = time.monotonic()

    def _work(self) -> None:
        left = LAST_ATTEMPTS
        while left:
            if self._closing.wait(self._pause()):
                left -= 1
            try:
                self._round()
                if self._ended:
                    return
            except _GivenUpError:
                return
            except Exception as error:  # whatever happens here, the training goes on
                if self._given_up.is_set():
                    return
                failure = failure_of(error)
                self._failures += 1
                self._note_failure(failure)
                if left < LAST_ATTEMPTS:
                    self._given_up.wait(LAST_PAUSE_SECONDS)

    def _pause(self) -> float:
        if not self.is_open and not self._failures:
            return 0.0
        if not self._failures:
            return PERIOD_SECONDS
        return PAUSE_SECONDS[min(self._failures, len(PAUSE_SECONDS)) - 1]

    def _round(self) -> None:
        """Open if need be, send points and files, and the end if it was asked for."""
        end = self._end  # before reading: everything recorded until then will be sent
        while not self._files.empty():
            self._waiting[self._files.get()] = None
        if not self.is_open:
            self.open()
        self.advance(self._waiting, end)
        if end is not None:
            self.note.set_complete(self.run_dir)
        elif self._failures:
            self.note.state, self.note.problem = "sending", None
            self.note.write(self.run_dir)
        self._ended = end is not None
        self._failures = 0

    # -- trouble -------------------------------------------------------------------------------

    def _note_failure(self, failure: StoreFailure) -> None:
        """Record that the tracker lacks something, and say so the first time."""
        self._failure = failure
        reason, note = failure.reason, self.note
        note.state, note.problem = "behind", reason
        writable = True
        try:
            note.write(self.run_dir)
        except OSError as error:
            writable = False
            reason = f"{reason} (nor can {self.run_dir} be written: {error.strerror})"
        if not self._announced:
            self._announced = True
            self._tell(
                f"{self.place}: {reason}; training goes on, the metrics stay in the run folder; "
                f"send them later with `{self.sync_command}`",
                store_is_silent=failure.is_silent and writable,
            )

    def _tell(self, text: str, *, store_is_silent: bool = False) -> None:
        self.notices.put(Notice(text, store_is_silent))
