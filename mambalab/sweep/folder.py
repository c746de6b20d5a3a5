"""The folder of a sweep: `sweep.json` says what was asked for and the state of each of its jobs.

sweep.json      command, launcher, jobs with their state
<job>/          run folder of a job, named by its values
.jobs/          what the processes of the jobs are told, and what they tell at their end
logs/           their output, where it does not go to the terminal
comparison/     report over the finished runs
mlflow_run.json the MLflow run under which those of the jobs hang
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.reader import RunRecord, is_run, read_run
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import EndedBy, Status
from mambalab.utils import process
from mambalab.utils.files import read_json, write_json
from mambalab.utils.reading import check_no_link
from mambalab.utils.typed_json import check_types

WAITING, RUNNING, FINISHED = "WAITING", "RUNNING", "FINISHED"
FAILED, KILLED, PRUNED = "FAILED", "KILLED", "PRUNED"


@dataclass(frozen=True)
class StopRequest:
    """Why the sweep asked a job to stop.

    Attributes:
        reason: one line for people.
        outcome: status of the job once it has stopped: KILLED, or PRUNED if it was not worth
            going on.
    """

    reason: str
    outcome: str = KILLED


@dataclass
class Entry:
    """State of one job.

    Attributes:
        status: one of the words above.
        reason: why it failed or stopped, one line.
        best: metric, value, step of its best evaluation, and whether more is better.
        minutes: training time over all sessions.
        cluster_id: of the cluster's job that runs it, if any.
    """

    status: str = WAITING
    reason: str | None = None
    best: dict[str, Any] | None = None
    minutes: float | None = None
    cluster_id: str | None = None


def _entry(values: dict[str, Any]) -> Entry:
    """Read the state of one job; raises TypeError or AttributeError for anything else."""
    check_types(Entry, values)
    return Entry(**values)


@dataclass
class SweepFolder:
    """A sweep on disk.

    Attributes:
        path: the folder.
        command: what was written after `mambalab train -m`, the last time.
        commands: all that were, in their order, each once; empty in old files.
        threads: CPU threads of each job; None = as many as torch likes.
        not_applicable: combinations that make no sense, and why.
        jobs: the state of each, by name.
        began: Unix time of the first start.
        status: RUNNING, or how the last command ended: FINISHED, FAILED, KILLED.
        total: jobs that the last command wants; a search draws them one by one. None in old files.
        record: what `mambalab sync` tells MLflow about it: experiment and parameters.
    """

    path: Path
    command: list[str] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)
    threads: int | None = None
    not_applicable: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, Entry] = field(default_factory=dict)
    began: float = field(default_factory=lambda: round(time.time(), 3))
    status: str = RUNNING
    total: int | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "SweepFolder":
        """Read sweep.json, or begin an empty sweep; raises UserError if it is damaged."""
        where = path / run_folder.SWEEP
        try:
            data = read_json(where, path)
            jobs = {name: _entry(entry) for name, entry in data.pop("jobs", {}).items()}
            check_types(cls, data)
            names = ("command", "commands", "threads", "not_applicable", "began", "status",
                     "total", "record")  # fmt: skip
            return cls(path, jobs=jobs, **{k: data[k] for k in names if k in data})
        except (TypeError, AttributeError) as error:
            raise UserError(f"{where} is damaged ({error}): delete it; the runs stay") from error
        except OSError as error:
            raise UserError(f"cannot read {where}: {error.strerror}") from error

    def note_command(self, words: list[str]) -> None:
        """Note what was written after `mambalab train -m` this time."""
        if self.command and not self.commands:  # of an old file
            self.commands.append(self.command)
        self.command = words
        if words not in self.commands:
            self.commands.append(words)

    def write(self) -> None:
        """Write sweep.json; raises UserError if that fails."""
        data = {k: v for k, v in asdict(self).items() if k != "path"}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / run_folder.SWEEP, {**data, **process.identity()})
        except OSError as error:
            raise UserError(f"cannot write in {self.path}: {error.strerror}") from error

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder's lock while this sweep runs; raises UserError if somebody has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {self.path}: {error.strerror}") from error
        for name in (".jobs", "logs", "comparison", "plots", "study.log"):
            check_no_link(self.path / name)
        with run_folder.hold(self.path, "running this sweep"):
            yield

    # -- files of a job -----------------------------------------------------------------------

    def order_file(self, name: str) -> Path:
        """Return the file that tells the process of a job what to do."""
        return self.path / ".jobs" / f"{name}.json"

    def answer_file(self, name: str) -> Path:
        """Return the file in which the process of a job tells how it ended."""
        return self.path / ".jobs" / f"{name}.answer.json"

    def process_file(self, name: str) -> Path:
        """Return the file that says which process runs a job; on a cluster, the one on the node."""
        return self.path / ".jobs" / f"{name}.process.json"

    def log_file(self, name: str) -> Path:
        """Return the file with the output of a job."""
        return self.path / "logs" / f"{name}.log"

    # -- how a job ended ----------------------------------------------------------------------

    def ended(
        self, name: str, run_dir: Path, status: int | None, asked: StopRequest | None = None
    ) -> Entry:
        """Determine the state of a job after its process ended.

        Args:
            name: of the job.
            run_dir: its run folder.
            status: exit status of the process, -N if signal N killed it, None if unknown.
            asked: the request to stop, if the sweep had made one.
        """
        answer = read_json(self.answer_file(name), self.path)
        entry = self.jobs.get(name, Entry())
        entry.cluster_id = None
        try:
            record = read_run(run_dir) if is_run(run_dir) else None
            if record is not None:
                note_results(entry, record)
        except UserError as error:  # damaged: whoever goes on with it will hear of it
            record, trouble = None, str(error)
        else:
            trouble = None
        if not answer:
            entry.status, entry.reason = FAILED, _killed_by(status)
            if asked is not None:
                entry.status, entry.reason = asked.outcome, asked.reason
            if record is not None:
                pruned = f"{PRUNED}: " if entry.status == PRUNED else ""
                _mark_killed(record, f"{pruned}{entry.reason}")
        elif answer["status"] == 0:
            entry.status, entry.reason = FINISHED, None
        elif answer["status"] in (129, 130, 143):
            noted = record.summary.reason if record else answer["reason"]
            entry.status, entry.reason = KILLED, noted
            if asked is not None:
                entry.status, entry.reason = asked.outcome, asked.reason
        else:
            entry.status, entry.reason = FAILED, answer["reason"]
        entry.reason = entry.reason or trouble
        return entry


def note_results(entry: Entry, record: RunRecord) -> None:
    """Copy the best value and the time of a run into the entry of its job."""
    if (best := record.best) is not None:
        entry.best = {
            "metric": best.metric,
            "value": best.value,
            "step": best.step,
            "maximize": record.maximize,
        }
    entry.minutes = record.minutes


def _killed_by(status: int | None) -> str:
    if status is None or status >= 0:
        how = "" if status is None else f" (exit status {status})"
        return f"its process ended without a word{how}; see its log"
    import signal

    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = ": out of memory, perhaps" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


def _mark_killed(record: RunRecord, reason: str) -> None:
    """Say in the run's summary what its process could not say any more."""
    if record.summary.status is not Status.RUNNING:
        return
    with contextlib.suppress(UserError), run_folder.hold(record.path):
        summary = replace(record.summary, status=Status.KILLED, reason=reason, step=record.step)
        replace(summary, ended_by=EndedBy.error).write(RunFolder(record.path).summary_file)
