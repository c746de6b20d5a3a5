"""The thread that keeps MLflow up to date beside the training.

It is fed by metrics.jsonl itself: about once a second it sends the lines that are new. So nothing
piles up in memory while a server is silent, and the training thread never waits for anything.
"""

import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from mambalab.tracking import mlflow_store as store
from mambalab.tracking.mlflow_run import MlflowRun, attachments

PERIOD = 1.0  # seconds between batches
PAUSES = (5.0, 15.0, 60.0)  # seconds between attempts to reach a store that failed
REMOTE_PATIENCE = 5.0  # seconds without any progress after which `finish` gives up a server,
LOCAL_PATIENCE = 30.0  # or a store on this machine, which may have to be created first
LONGEST_FINISH = 60.0
SILENT = "it does not answer"


class _GivenUpError(Exception):
    """Ends the thread: nobody waits for it any more."""


class MlflowSink:
    """Mirrors a run folder in MLflow while it grows.

    Args:
        run_dir: the run folder, held by the caller until `finish` has returned.
        uri: from `mlflow_store.store_uri`.
        output_dir, experiment: see `MlflowRun`.
        params: from `mlflow_run.flatten`.
        tags: of the run.
        start_ms: start of the run, Unix milliseconds.
        remedy: the command that sends the run later.
    """

    def __init__(
        self,
        run_dir: Path,
        uri: str,
        *,
        output_dir: Path,
        experiment: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        start_ms: int,
        remedy: str,
    ) -> None:
        self.messages: queue.SimpleQueue[str] = queue.SimpleQueue()  # for the person, in order
        self._run = MlflowRun(
            run_dir, uri, output_dir=output_dir, experiment=experiment, tick=self._tick
        )
        self._run.note.state = "sending"
        self._params, self._tags, self._start_ms = params, tags, start_ms
        self._remedy = remedy
        self._files: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._waiting: dict[Path, None] = dict.fromkeys(attachments(run_dir))  # a set in order
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._end: tuple[str, int] | None = None
        self._ended = False
        self._progress = time.monotonic()
        self._failures = 0
        self._announced = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    @property
    def silent(self) -> bool:
        """Whether the store did not answer when it was asked last."""
        return self._failures > 0 and self._run.note.problem == SILENT

    def file(self, path: Path) -> None:
        """Copy a file of the run folder to MLflow soon; the latest version if it comes again."""
        self._files.put(path)

    def finish(self, status: str) -> None:
        """Send what is left and the run's status; waits while that makes progress.

        A store that does not answer is given up after a few seconds; a message says so.
        """
        self._end = (status, _now_ms())
        patience = REMOTE_PATIENCE if store.is_remote(self._run.uri) else LOCAL_PATIENCE
        asked = time.monotonic()
        self._closing.set()
        while self._thread.is_alive():
            self._thread.join(0.1)
            now = time.monotonic()
            silent = now - max(self._progress, asked) > patience
            if self._thread.is_alive() and (silent or now - asked > LONGEST_FINISH):
                self._given_up.set()
                self._behind(SILENT if silent else "it is too slow")
                return
        if self._ended and self._announced:
            self.messages.put(f"MLflow at {self._shown()} has the whole run after all")

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
                self._failures += 1
                self._behind(reason(error))

    def _pause(self) -> float:
        if not self._run.is_open and not self._failures:
            return 0.0
        if not self._failures:
            return PERIOD
        return PAUSES[min(self._failures, len(PAUSES)) - 1]

    def _advance(self) -> None:
        """One round: open if need be, points, files, and the end when it has been asked for."""
        run = self._run
        end = self._end  # before reading: everything recorded until then will be sent
        if not run.is_open:
            run.open(params=self._params, tags=self._tags, start_ms=self._start_ms)
            run.set_running()
            run.reap()
        run.send()
        if end is not None:
            run.end(*end)
        while not self._files.empty():
            self._waiting[self._files.get()] = None
        for path in list(self._waiting):
            if path.exists():
                run.send_file(path)
            del self._waiting[path]
        if end is not None or self._failures:
            run.note.state = "complete" if end is not None else "sending"
            run.note.problem = None
            run.note.write(run.run_dir)
        self._ended = end is not None
        self._failures = 0
        if run.conflicts:
            self.messages.put(
                f"MLflow at {self._shown()} holds other values than metrics.jsonl for "
                f"{run.conflicts} points; the file is right, MLflow cannot be corrected"
            )
            run.conflicts = 0

    # -- trouble ------------------------------------------------------------------------------

    def _behind(self, reason: str) -> None:
        """Record that MLflow lacks something, and say so the first time."""
        note = self._run.note
        note.state, note.problem = "behind", reason
        try:
            note.write(self._run.run_dir)
        except OSError as error:
            reason = f"{reason} (nor can {self._run.run_dir} be written: {error.strerror})"
        if not self._announced:
            self._announced = True
            self.messages.put(
                f"MLflow at {self._shown()}: {reason}; training goes on, the metrics stay in the "
                f"run folder; send them later with `{self._remedy}`"
            )

    def _shown(self) -> str:
        return store.hide_password(self._run.uri)


def _now_ms() -> int:
    return round(1000 * time.time())


def reason(error: BaseException) -> str:
    """One line for a person: what went wrong with the store."""
    silence = {"ConnectionError", "Timeout", "ConnectTimeout", "ReadTimeout"}
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__ == "requests.exceptions" and type(cause).__name__ in silence:
            return SILENT
        cause = cause.__cause__ or cause.__context__
    text = store.hide_password(str(error)).strip() or type(error).__name__
    return text.splitlines()[0][:200]
