"""The thread that keeps MLflow up to date beside the training.

It is fed by metrics.jsonl itself: about once a second it sends the lines that are new. So nothing
piles up in memory while a server is silent, and the training thread never waits for anything.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mambalab.tracking import mlflow_store as store
from mambalab.tracking.description import Description
from mambalab.tracking.mlflow_files import attachments
from mambalab.tracking.mlflow_run import MlflowRun
from mambalab.tracking.mlflow_system import SystemMonitor
from mambalab.tracking.store_failure import NO_ANSWER, TOO_SLOW, StoreFailure, failure_of
from mambalab.utils import process
from mambalab.utils.secrets import hide_password

PERIOD_SECONDS = 1.0  # between batches
PAUSE_SECONDS = (5.0, 15.0, 60.0)  # between attempts to reach a store that failed
REMOTE_PATIENCE_SECONDS = 5.0  # without any progress, after which `finish` gives up a server,
LOCAL_PATIENCE_SECONDS = 30.0  # or a store on this machine, which may have to be created first
MAX_FINISH_SECONDS = 60.0
STOP_PATIENCE_SECONDS = 5.0  # as the two above when somebody waits for the run to stop,
MAX_STOP_SECONDS = 8.0  # and the whole time then: a container is killed after ten seconds


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


class MlflowMirror:
    """Mirrors a run folder in MLflow while it grows.

    Args:
        run_dir: the run folder, held by the caller until `finish` has returned.
        uri: from `mlflow_store.store_uri`.
        output_dir: see `MlflowRun`.
        description: of the run.
        sync_command: what a person types to send the run later.
    """

    def __init__(
        self,
        run_dir: Path,
        uri: str,
        *,
        output_dir: Path,
        description: Description,
        sync_command: str,
    ) -> None:
        self.notices: queue.SimpleQueue[Notice] = queue.SimpleQueue()  # for the person, in order
        self._run = MlflowRun(
            run_dir, uri, output_dir=output_dir, experiment=description.experiment, tick=self._tick
        )
        self._run.note.state = "sending"
        self._system = SystemMonitor()
        self._description = description
        self._sync_command = sync_command
        self._files: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._waiting: dict[Path, None] = dict.fromkeys(attachments(run_dir))  # a set in order
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._end: tuple[str, int] | None = None
        self._ended = False
        self._progress = time.monotonic()
        self._failures = 0  # since the store answered last
        self._failure: StoreFailure | None = None  # the last one
        self._announced = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    @property
    def is_silent(self) -> bool:
        """Whether the store did not answer when it was asked last."""
        failure = self._failure
        return self._failures > 0 and failure is not None and failure.is_silent

    def file(self, path: Path) -> None:
        """Copy a file of the run folder to MLflow soon; the latest version if it comes again."""
        self._files.put(path)

    def finish(self, status: str, hurried: Callable[[], object] = lambda: False) -> None:
        """Send what is left and the run's status; waits while that makes progress.

        A store that does not answer is given up after a few seconds; a message says so. A run
        that was asked to stop waits a few seconds at most for any store.

        Args:
            status: FINISHED, FAILED, or KILLED for a run that was asked to stop.
            hurried: whether somebody asks a run that ended otherwise to stop while this waits.
        """
        self._end = (status, _now_ms())
        patience = (
            REMOTE_PATIENCE_SECONDS if store.is_remote(self._run.uri) else LOCAL_PATIENCE_SECONDS
        )
        longest = MAX_FINISH_SECONDS
        asked, in_hurry = time.monotonic(), False
        self._closing.set()
        while self._thread.is_alive():
            if not in_hurry and (status == "KILLED" or hurried()):
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
            self._tell(f"MLflow at {self._shown()} has the whole run after all")

    # -- in the thread ------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._given_up.is_set():
            raise _GivenUpError
        self._progress = time.monotonic()

    def _work(self) -> None:
        last = False
        while not last:
            last = self._closing.wait(self._pause())
            try:
                self._advance()
            except _GivenUpError:
                return
            except Exception as error:  # whatever happens here, the training goes on
                if self._given_up.is_set():
                    return
                failure = failure_of(error)
                self._failures += 1
                self._note_failure(failure)

    def _pause(self) -> float:
        if not self._run.is_open and not self._failures:
            return 0.0
        if not self._failures:
            return PERIOD_SECONDS
        return PAUSE_SECONDS[min(self._failures, len(PAUSE_SECONDS)) - 1]

    def _advance(self) -> None:
        """Do one round: open if need be, send points and files, and the end if it was asked for."""
        run = self._run
        end = self._end  # before reading: everything recorded until then will be sent
        while not self._files.empty():
            self._waiting[self._files.get()] = None
        if not run.is_open:
            about = self._description
            run.open(params=about.params, tags=about.tags, start_ms=about.start_ms)
            run.set_running()
            run.close_dead_runs()
            if run.copy_of is not None:
                self._tell(f"{run.run_dir} is a copy of {run.copy_of}: an MLflow run of its own")
        run.advance(self._waiting, end)
        if not run.is_sweep and (self._system.due() or end is not None):
            run.send_system(self._system.look())
        if end is not None:
            run.note.set_complete(run.run_dir)
        elif self._failures:
            run.note.state, run.note.problem = "sending", None
            run.note.write(run.run_dir)
        self._ended = end is not None
        self._failures = 0
        if run.conflicts:
            self._tell(
                f"MLflow at {self._shown()} holds other values than metrics.jsonl for "
                f"{run.conflicts} points; the file is right, MLflow cannot be corrected"
            )
            run.conflicts = 0

    # -- trouble ------------------------------------------------------------------------------

    def _note_failure(self, failure: StoreFailure) -> None:
        """Record that MLflow lacks something, and say so the first time."""
        self._failure = failure
        reason, note = failure.reason, self._run.note
        note.state, note.problem = "behind", reason
        writable = True
        try:
            note.write(self._run.run_dir)
        except OSError as error:
            writable = False
            reason = f"{reason} (nor can {self._run.run_dir} be written: {error.strerror})"
        if not self._announced:
            self._announced = True
            self._tell(
                f"MLflow at {self._shown()}: {reason}; training goes on, the metrics stay in the "
                f"run folder; send them later with `{self._sync_command}`",
                store_is_silent=failure.is_silent and writable,
            )

    def _tell(self, text: str, *, store_is_silent: bool = False) -> None:
        self.notices.put(Notice(text, store_is_silent))

    def _shown(self) -> str:
        return hide_password(self._run.uri)


def _now_ms() -> int:
    return round(1000 * time.time())
