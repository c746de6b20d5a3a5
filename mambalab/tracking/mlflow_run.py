"""The MLflow run that mirrors a run folder: sends what the folder holds and the store lacks.

What may be sent twice? Every point has a timestamp computed from the file alone, so a SQL store
takes a repeated one for the same row. And whenever it is uncertain what arrived (at the start, and
after any failure), the store is asked what it holds, by (key, step), and gets the difference.
The folder's `mlflow_run.json` names the run; should a `kill -9` come between creating the run and
noting it, the run is found again by the `uid` that was noted before.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mambalab.records import run_folder
from mambalab.tracking import mlflow_best
from mambalab.tracking import mlflow_names as names
from mambalab.tracking import mlflow_store as store
from mambalab.tracking.description import DESCRIPTION, MAX_NAME_CHARS, RUN_NAME, cut, own_tags
from mambalab.tracking.mlflow_files import is_own, without_passwords
from mambalab.tracking.mlflow_page import RunPage
from mambalab.tracking.note import Note, ended_as, holds
from mambalab.utils import process
from mambalab.utils.secrets import hide_password

METRICS_PER_BATCH = 1000  # MLflow's own limits, as the next two
PARAMS_PER_BATCH = 100
MAX_TAG_CHARS = 8000
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
        self._old_names = False  # whether the store has metrics under their names in the file
        self._best = mlflow_best.BestSoFar(run_dir)
        self._best_sent: mlflow_best.BestEvaluation | None = None
        self._best_shown, self._best_stamp = dict[str, float](), 0  # as the store has it
        self._page: RunPage | None = None
        self._page_is_current = False
        # What the store held at the start and the file did not, as after a backup came back.
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
                tags={names.UID: self.note.uid, **own_tags(), **_process_tags()},
                run_name=self._name(tags.get(RUN_NAME)),
            )
        self._run_id = self.note.run_id = run.info.run_id
        self.note.uri, self.note.experiment = uri, self.experiment
        self.note.write(self.run_dir)
        if run.info.lifecycle_stage == "deleted":
            client.restore_run(self._run_id)
        self.start_ms = run.info.start_time
        self._describe(client, run, params, tags)
        self._page = RunPage(self.run_dir, client, run, tags.get(DESCRIPTION))
        self._client = client
        self.tick()

    @property
    def is_sweep(self) -> bool:
        """Whether the folder is that of a sweep."""
        return (self.run_dir / run_folder.SWEEP).is_file()

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
                if names.tag(run.data.tags, names.UID) == self.note.uid:
                    return self._unless_copied(run)
        for name in (names.UID, names.OLD_TAGS[names.UID]):
            query = f"tags.`{name}` = '{self.note.uid}'"
            if found := store.search(client, query, deleted=True):
                return self._unless_copied(found[0])
        return None

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
        told = {key: value for key, value in tags.items() if key not in (RUN_NAME, DESCRIPTION)}
        all_tags = {**told, **changed, store.FOLDER: str(self.run_dir.absolute())}
        for name, old in names.OLD_TAGS.items():
            if old in run.data.tags:
                all_tags[name] = run.data.tags[old]
        if "git_revision" in tags:
            all_tags["mlflow.source.git.commit"] = tags["git_revision"].partition("+")[0]
        items = [
            RunTag(k[:MAX_NAME_CHARS], cut(str(v), MAX_TAG_CHARS)) for k, v in all_tags.items()
        ]
        for part in _chunks(items, PARAMS_PER_BATCH):
            client.log_batch(self._run_id, tags=part)
        for old in names.OLD_TAGS.values():
            if old in run.data.tags:
                client.delete_tag(self._run_id, old)

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
            self._best.clear()
        rows, end = run_folder.read_rows(self.run_dir / run_folder.METRICS, self._offset)
        points = self._points(rows, known, remember=not self._certain)
        self._certain = False
        for part in _chunks(points, METRICS_PER_BATCH):
            self._client.log_batch(self._run_id, metrics=part)
            self.note.points += len(part)
            self.tick()
        self._send_best()
        self._certain, self._offset = True, end
        return len(points)

    def _send_best(self) -> None:
        """Send the best evaluation, of a sweep its best job's, if it is another one now."""
        best = self._best.found
        if self.is_sweep:
            best = mlflow_best.best_of_sweep(self.run_dir, self._stamp())
        if best is not None and best.as_metrics() != self._best_shown:
            found = mlflow_best.points(best, self._best_stamp)
            self._client.log_batch(self._run_id, metrics=found)
            self._best_shown, self._best_stamp = best.as_metrics(), found[0].timestamp
            self._page_is_current = False
        self._best_sent = best

    def send_system(self, values: Mapping[str, float]) -> None:
        """Send what the machine does now; the step of such a point is the run's age in seconds."""
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        age = max(0, now - self.start_ms) // 1000
        points = [Metric(key, value, now, age) for key, value in values.items()]
        self._client.log_batch(self._run_id, metrics=points)
        self.tick()

    def _stamp(self) -> int:
        return self.start_ms + round(1000 * self._seconds)

    def _stored(self) -> dict[tuple[str, int], float | None]:
        """Ask the store for all its points of this run, by (key, step)."""
        known: dict[tuple[str, int], float | None] = {}
        metrics = self._client.get_run(self._run_id).data.metrics
        self._best_shown = mlflow_best.shown(metrics)
        self._best_stamp = mlflow_best.latest_stamp(self._client, self._run_id, metrics)
        self._old_names = names.kept_old(metrics)  # a curve in two parts would be worse
        for key in metrics:
            if (name := names.in_file(key)) is None:
                continue
            for m in self._client.get_metric_history(self._run_id, key):
                known[name, m.step] = run_folder.finite(m.value)
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
            self._seconds = values.get(names.SECONDS_METRIC) or self._seconds
            stamp = self._stamp()
            self._best.see(step, values, stamp)
            for key, value in values.items():
                if (key, step) in known:
                    conflicts += known[key, step] != value
                    continue
                if remember:  # a file of ours holds a pair once; one mended by hand may not
                    known[key, step] = value
                shown = key if self._old_names else names.in_store(key)
                points.append(Metric(shown, math.nan if value is None else value, stamp, step))
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
            if is_own(path, self.run_dir):
                self.send_file(path)
                self._page_is_current = False
            del files[path]
        if not self._page_is_current:
            assert self._page is not None, "it is open"
            self._page.refresh(self._best_sent)
            self._page_is_current = True
            self.tick()
        return new

    def send_file(self, path: Path) -> None:
        """Copy a file below the run folder to the same place among the run's artifacts."""
        folder = path.relative_to(self.run_dir).parent.as_posix()
        with without_passwords(path) as sent:
            self._client.log_artifact(self._run_id, str(sent), None if folder == "." else folder)
        self.tick()

    def close_dead_runs(self) -> int:
        """Mark dead runs of this run's store as their folders say, KILLED if those do not."""

        def ending(run: Any) -> str:
            tags, name = run.data.tags, run.info.run_name or ""
            folder = tags.get(store.FOLDER) or self.output_dir / name
            return ended_as(Path(folder), names.tag(tags, names.UID) or "") or "KILLED"

        return store.close_dead_runs(self._client, ending)

    def set_running(self) -> None:
        """Show that this process trains the run now."""
        from mlflow.entities import RunTag

        tags = {**_process_tags(), names.STATUS: "RUNNING"}
        self._client.log_batch(self._run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        self._client.update_run(self._run_id, status="RUNNING")
        self.tick()

    def end(self, status: str, end_ms: int) -> None:
        """Set how the run ended: FINISHED, FAILED or KILLED, and when (Unix milliseconds)."""
        if self.is_sweep:
            self._set_parent_of_children()
        self._client.set_tag(self._run_id, names.STATUS, status)
        end_ms = max(end_ms, self.start_ms)  # a clock that was set back
        self._client.set_terminated(self._run_id, status, end_ms)
        self.tick()


def _process_tags() -> dict[str, str]:
    """Say who writes to the run: `close_dead_runs` asks whether that process still lives."""
    me = process.identity()
    return {store.HOST: me["host"], names.PID: str(me["pid"]), names.BORN: me["born"]}


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
