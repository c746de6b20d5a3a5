"""The MLflow run that mirrors a run folder: sends what the folder holds and the store lacks.

What may be sent twice? Every point has a timestamp computed from the file alone, so a SQL store
takes a repeated one for the same row. And whenever it is uncertain what arrived (at the start, and
after any failure), the store is asked what it holds, by (key, step), and gets the difference.
The folder's `mlflow_run.json` names the run; should a `kill -9` come between creating the run and
noting it, the run is found again by the `uid` that was noted before.
"""

import getpass
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mambalab.records import run_folder
from mambalab.tracking import mlflow_store as store
from mambalab.tracking.description import MAX_NAME_CHARS, RUN_NAME, cut
from mambalab.tracking.note import Note, ended_as, holds
from mambalab.utils import process
from mambalab.utils.reading import inside
from mambalab.utils.secrets import hide_password

METRICS_PER_BATCH = 1000  # MLflow's own limits, as the next two
PARAMS_PER_BATCH = 100
MAX_TAG_CHARS = 8000
SECONDS_METRIC = "time/seconds"
RESUMED = "resumed."  # prefix of tags: settings that a later session changed


class MlflowRun:
    """Sends one run folder to one store; not thread-safe; every method may take seconds.

    Args:
        run_dir: the run folder, held by the caller (`run_folder.hold`).
        uri: from `mlflow_store.store_uri`.
        output_dir: runs are named by their path below it.
        experiment: name of the MLflow experiment.
        tick: called after every exchange with the store; what it raises ends the sending.

    Attributes:
        copy_of: the folder of which this one is a copy, so that it became a run of its own.
    """

    def __init__(
        self,
        run_dir: Path,
        uri: str,
        *,
        output_dir: Path,
        experiment: str,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.run_dir = run_dir
        self.uri = uri
        self.output_dir = output_dir
        self.experiment = experiment
        self.tick = tick
        self.note = Note.read(run_dir)
        self.conflicts = 0
        self._client: Any = None
        self._run_id = ""
        self.start_ms = 0
        self._certain = False  # whether the store holds exactly the file's first _offset bytes
        self._offset = 0
        self._seconds = 0.0
        self._has_parent = False
        # What the store held at the start and the file did not: a folder that came back from a
        # backup comes by these points again.
        self._ahead: dict[tuple[str, int], float | None] = {}

    @property
    def copy_of(self) -> Path | None:
        """The folder of which this one is a copy, if it is one."""
        return self.note.copy_of

    def open(self, *, params: Mapping[str, str], tags: Mapping[str, str], start_ms: int) -> None:
        """Connect; find this folder's run in the store or create it, with parameters and tags.

        Args:
            params: from `description.params_of`. MLflow never changes a parameter: one that
                differs from the first start (a longer `trainer.max_steps`) goes into a tag
                `resumed.<name>`.
            tags: replace those of an earlier start.
            start_ms: start of the run in Unix milliseconds, if it has to be created.

        Raises:
            Exception: whatever MLflow raises; safe to call again.
        """
        uri = hide_password(self.uri)
        if self.note.run_id is None:
            self.note.uri, self.note.experiment = uri, self.experiment
        self.note.write(self.run_dir)  # the uid is known before any store hears of the run
        client = store.connect(self.uri, self.output_dir)
        self.tick()
        run = self._find(client)
        if run is None:
            artifacts = store.artifact_root(self.uri, self.output_dir)
            run = client.create_run(
                store.experiment_id(client, self.experiment, artifacts),
                start_time=start_ms,
                tags={store.UID: self.note.uid, **_system_tags(), **_process_tags()},
                run_name=self._name(tags.get(RUN_NAME)),
            )
        self._run_id = self.note.run_id = run.info.run_id
        self.note.uri, self.note.experiment = uri, self.experiment
        self.note.write(self.run_dir)
        if run.info.lifecycle_stage == "deleted":
            client.restore_run(self._run_id)
        self.start_ms = run.info.start_time
        self._describe(client, run, params, tags)
        self._client = client
        self.tick()

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded."""
        return self._client is not None

    def _name(self, given: str | None) -> str:
        run_dir, below = self.run_dir.absolute(), self.output_dir.absolute()
        if (run_dir.parent / run_folder.SWEEP).is_file():
            return run_dir.name  # MLflow's pages show it below the sweep, and cut off long names
        if given:
            return given
        inside = run_dir.is_relative_to(below) and run_dir != below
        return str(run_dir.relative_to(below)) if inside else run_dir.name

    def _find(self, client: Any) -> Any:
        from mlflow.exceptions import MlflowException

        if self.note.run_id is not None and self.note.uri == hide_password(self.uri):
            try:
                run = client.get_run(self.note.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if run.data.tags.get(store.UID) == self.note.uid:
                    return self._unless_copied(run)
        found = store.search(client, f"tags.`{store.UID}` = '{self.note.uid}'", deleted=True)
        return self._unless_copied(found[0]) if found else None

    def _unless_copied(self, run: Any) -> Any:
        """Return the run, or None and a new note if it belongs to another folder with that uid.

        The note of a copy cannot tell it from a moved folder once the original was renamed.
        """
        folder = run.data.tags.get(store.FOLDER)
        if folder and holds(Path(folder), self.note.uid, besides=self.run_dir):
            state = self.note.state
            self.note = Note.new(copy_of=Path(folder))
            self.note.uri, self.note.experiment = hide_password(self.uri), self.experiment
            self.note.state = state
            self.note.write(self.run_dir)
            return None
        return run

    def _set_parent(self) -> None:
        """Name the run of the sweep as this one's parent, as soon as the store has it."""
        above = self.run_dir.absolute().parent
        if self._has_parent or not (above / run_folder.SWEEP).is_file():
            return
        sweep = Note.read(above)
        if sweep.run_id is not None and sweep.uri == hide_password(self.uri):
            self._client.set_tag(self._run_id, store.PARENT, sweep.run_id)
            self._has_parent = True

    def _set_parent_of_children(self) -> None:
        """Name this run of a sweep as the parent of all runs in its folder.

        Jobs may have ended before the store had the sweep.
        """
        hanging = store.search(self._client, f"tags.`{store.PARENT}` = '{self._run_id}'")
        known = {run.info.run_id for run in hanging}
        for path in sorted(self.run_dir.glob(f"*/{run_folder.MLFLOW}")):
            note = Note.read(path.parent)
            here = note.uri == hide_password(self.uri)
            if here and note.run_id is not None and note.run_id not in known:
                self._client.set_tag(note.run_id, store.PARENT, self._run_id)
                self.tick()

    def _describe(
        self, client: Any, run: Any, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Param, RunTag

        held = run.data.params
        new = [Param(key, value) for key, value in params.items() if key not in held]
        for part in _chunks(new, PARAMS_PER_BATCH):
            client.log_batch(self._run_id, params=part)
        changed = {f"{RESUMED}{k}": v for k, v in params.items() if held.get(k, v) != v}
        given = tags.get(RUN_NAME)
        if given is not None and (name := self._name(given)) != run.info.run_name:
            client.update_run(self._run_id, name=name)
        told = {key: value for key, value in tags.items() if key != RUN_NAME}
        all_tags = {**told, **changed, store.FOLDER: str(self.run_dir.absolute())}
        if "git_revision" in tags:
            all_tags["mlflow.source.git.commit"] = tags["git_revision"].partition("+")[0]
        items = [
            RunTag(k[:MAX_NAME_CHARS], cut(str(v), MAX_TAG_CHARS)) for k, v in all_tags.items()
        ]
        for part in _chunks(items, PARAMS_PER_BATCH):
            client.log_batch(self._run_id, tags=part)

    # -- points -------------------------------------------------------------------------------

    def send(self) -> int:
        """Send what metrics.jsonl holds and the store lacks; returns how many points that were.

        Raises:
            UserError: if metrics.jsonl is damaged.
            Exception: whatever MLflow raises; safe to call again.
        """
        self._set_parent()
        known = self._ahead
        if not self._certain:
            known = self._ahead = self._stored()
            self._offset, self._seconds, self.note.points = 0, 0.0, len(known)
        rows, end = run_folder.read_rows(self.run_dir / run_folder.METRICS, self._offset)
        points = self._points(rows, known, remember=not self._certain)
        self._certain = False
        for part in _chunks(points, METRICS_PER_BATCH):
            self._client.log_batch(self._run_id, metrics=part)
            self.note.points += len(part)
            self.tick()
        self._certain, self._offset = True, end
        return len(points)

    def _stored(self) -> dict[tuple[str, int], float | None]:
        """Ask the store for all its points of this run, by (key, step)."""
        known: dict[tuple[str, int], float | None] = {}
        for key in self._client.get_run(self._run_id).data.metrics:
            for m in self._client.get_metric_history(self._run_id, key):
                known[key, m.step] = run_folder.finite(m.value)
            self.tick()
        return known

    def _points(
        self,
        rows: Sequence[run_folder.Row],
        known: dict[tuple[str, int], float | None],
        *,
        remember: bool,
    ) -> list[Any]:
        """Make MLflow metrics of the points that are not in `known`, with the run's time."""
        from mlflow.entities import Metric

        points: list[Any] = []
        conflicts = 0
        for step, values in rows:
            self._seconds = values.get(SECONDS_METRIC) or self._seconds
            stamp = self.start_ms + round(1000 * self._seconds)
            for key, value in values.items():
                if (key, step) in known:
                    conflicts += known[key, step] != value
                    continue
                if remember:  # a file of ours holds a pair once; one mended by hand may not
                    known[key, step] = value
                points.append(Metric(key, math.nan if value is None else value, stamp, step))
        if remember:
            for step, values in rows:
                for key in values:
                    known.pop((key, step), None)
        self.conflicts = conflicts if remember else self.conflicts + conflicts
        return points

    # -- files and the end --------------------------------------------------------------------

    def advance(self, files: dict[Path, None], ended: tuple[str, int] | None) -> int:
        """Send all that is new: points, how the run ended if it has, and files.

        Args:
            files: below the run folder, in order; each is taken out when it has been sent or is
                not there any more.
            ended: the arguments of `end`, or None while the run goes on.

        Returns:
            How many points were new.

        Raises:
            UserError: metrics.jsonl is damaged.
            Exception: whatever MLflow raises; safe to call again.
        """
        new = self.send()
        if ended is not None:
            self.end(*ended)
        for path in list(files):
            if _is_own(path, self.run_dir):
                self.send_file(path)
            del files[path]
        return new

    def send_file(self, path: Path) -> None:
        """Copy a file below the run folder to the same place among the run's artifacts."""
        folder = path.relative_to(self.run_dir).parent.as_posix()
        with _without_passwords(path) as sent:
            self._client.log_artifact(self._run_id, str(sent), None if folder == "." else folder)
        self.tick()

    def close_dead_runs(self) -> int:
        """Mark dead runs of this run's store as their folders say, KILLED if those do not."""

        def ending(run: Any) -> str:
            tags, name = run.data.tags, run.info.run_name or ""
            folder = tags.get(store.FOLDER) or self.output_dir / name
            return ended_as(Path(folder), tags.get(store.UID, "")) or "KILLED"

        return store.close_dead_runs(self._client, ending)

    def set_running(self) -> None:
        """Show that this process trains the run now."""
        from mlflow.entities import RunTag

        tags = {**_process_tags(), store.STATUS: "RUNNING"}
        self._client.log_batch(self._run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        self._client.update_run(self._run_id, status="RUNNING")
        self.tick()

    def end(self, status: str, end_ms: int) -> None:
        """Set how the run ended: FINISHED, FAILED or KILLED, and when (Unix milliseconds)."""
        if (self.run_dir / run_folder.SWEEP).is_file():
            self._set_parent_of_children()
        self._client.set_tag(self._run_id, store.STATUS, status)
        end_ms = max(end_ms, self.start_ms)  # a clock that was set back
        self._client.set_terminated(self._run_id, status, end_ms)
        self.tick()


def attachments(run_dir: Path) -> list[Path]:
    """List the files of a run folder, or of a sweep's, that belong into MLflow: all but metrics,
    checkpoints and logs.

    Regular files only, and none that a link leads out of the folder: a stranger's run would else
    send what is elsewhere on this machine.
    """
    named = [run_dir / name for name in (run_folder.CONFIG, run_folder.SUMMARY, run_folder.SWEEP)]
    found = [path for path in named if _is_own(path, run_dir)]
    for folder in ("plots", "samples", "tables", "comparison"):
        files = (p for p in (run_dir / folder).glob("*") if _is_own(p, run_dir))
        found += sorted(p for p in files if not p.name.startswith("."))  # half-written ones
    return found


@contextmanager
def _without_passwords(path: Path) -> Iterator[Path]:
    """Give the file itself, or a copy without the passwords that older versions wrote there."""
    if path.name not in (run_folder.CONFIG, run_folder.SWEEP):
        yield path
        return
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if (clean := hide_password(text)) == text:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mambalab-") as folder:
        copy = Path(folder, path.name)
        copy.write_text(clean, encoding="utf-8", errors="surrogateescape")
        yield copy


def _is_own(path: Path, run_dir: Path) -> bool:
    return path.is_file() and inside(path, run_dir)


def _system_tags() -> dict[str, str]:
    """Return the tags that MLflow's own pages show."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = "unknown"
    return {
        "mlflow.user": user,
        "mlflow.source.name": "mambalab",
        "mlflow.source.type": "LOCAL",
    }


def _process_tags() -> dict[str, str]:
    """Say who writes to the run: `close_dead_runs` asks whether that process still lives."""
    me = process.identity()
    return {store.HOST: me["host"], store.PID: str(me["pid"]), store.BORN: me["born"]}


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
