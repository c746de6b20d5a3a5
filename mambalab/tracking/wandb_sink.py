"""The sink that sends a run to Weights & Biases, online, or offline into the run folder.

A row of metrics.jsonl is a row of the run's history there, with its number in the file as wandb's
own step. A resumed run asks wandb how many rows it has, and goes on after these.
"""

# An extra, which not everybody has.
# pyright: reportMissingImports=false

import glob
import html
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.summary import RunSummary
from mambalab.settings.train import TrackingSettings
from mambalab.tracking.description import DEFAULT_EXPERIMENT, without_labels
from mambalab.tracking.mlflow_files import attachments
from mambalab.tracking.note import Note
from mambalab.tracking.packages import require
from mambalab.tracking.sink import MAX_FINISH_SECONDS, Sink
from mambalab.utils.mapping import flatten
from mambalab.utils.reading import check_no_link, inside, read_bytes
from mambalab.utils.secrets import hide_password

STEP = "step"  # the axis of all charts: optimiser steps, as in metrics.jsonl
EXIT_CODES = {"FINISHED": 0, "FAILED": 1, "KILLED": 130}
ROWS_PER_TICK = 1000
MAX_TAG_CHARS = 64  # wandb's own limit


def check(settings: TrackingSettings) -> None:
    """Check, before anything is created, whether runs can be recorded as the settings ask.

    Raises:
        UserError: wandb is missing, nobody is logged in, or `tracking.uri` is no server.
    """
    if settings.uri is not None and not settings.uri.startswith(("http://", "https://")):
        raise UserError(
            f"tracking.uri={hide_password(settings.uri)}: for tracking=wandb it is a server of "
            "your own, https://HOST; leave it out for WANDB_BASE_URL or wandb's own server"
        )
    require("wandb")
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")  # its lines would cut the bar
    if wandb.setup().settings.mode not in ("online", "shared"):
        return
    if not wandb.login(prompt=False, host=settings.uri, verify=False):
        raise UserError(
            "tracking=wandb: nobody is logged in to Weights & Biases here: `wandb login`, or "
            "WANDB_MODE=offline before the command"
        )


class WandbSink(Sink):
    """Sends what a run folder holds to one wandb run.

    Args:
        run_dir: the run folder, held by the caller until `finish` has returned.
        settings: `experiment_name` is the project, or `entity/project`; `uri` the server.
        config: settings of the run, nested.
        facts: of this session (`git_revision`, `device`, ...).
        output_dir: runs are named by their path below it.
        rows: of metrics.jsonl that were there before this session.
        sync_command: what a person types to send the run later, if wandb does not come to it.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: TrackingSettings,
        config: Mapping[str, Any],
        *,
        facts: Mapping[str, str],
        output_dir: Path,
        rows: int,
        sync_command: str,
    ) -> None:
        super().__init__(run_dir, (), sync_command=sync_command, is_remote=False)
        self._note = Note.read(run_dir, run_folder.WANDB)
        self._note.state = "sending"
        self._settings = settings
        self._config = config
        self._facts = facts
        self._output_dir = output_dir
        self._old_rows = rows
        self._run: Any = None
        self._offset = 0
        self._row = 0  # of the file, the next to be read
        self._first = 0  # that wandb lacked when this session began
        self._samples: set[Path] = set()  # shown: they may be named twice, and do not change
        self._shift = 0  # from a row's number to wandb's step: rows that the file has lost

    @property
    def note(self) -> Note:
        """What the folder knows of its wandb run."""
        return self._note

    @property
    def place(self) -> str:
        """Name the tracker."""
        return "Weights & Biases"

    @property
    def is_open(self) -> bool:
        """Whether wandb has the run."""
        return self._run is not None

    @property
    def sync_command(self) -> str:
        """What a person types to send the run later: wandb's own verb once it has files here."""
        return sync_command(self.run_dir) or self._sync_command

    def open(self) -> None:
        """Begin the run, or go on with it; tell its settings and labels."""
        import wandb

        if self._note.copy_of is not None:
            self._tell(f"{self.run_dir} is a copy of {self._note.copy_of}: a wandb run of its own")
            self._note.copy_of = None
        self._note.write(self.run_dir)  # the id is known before wandb hears of the run
        check_no_link(self.run_dir / run_folder.WANDB_FILES)
        config, settings = self._config, self._settings
        task = config.get("task")
        task = task.get("name") if isinstance(task, Mapping) else None
        entity, _, project = (settings.experiment_name or "").rpartition("/")
        options: dict[str, Any] = {} if settings.uri is None else {"base_url": settings.uri}
        tags = config.get("tags")
        run = wandb.init(
            entity=entity or None,
            project=project or os.environ.get("WANDB_PROJECT") or task or DEFAULT_EXPERIMENT,
            dir=None if os.environ.get("WANDB_DIR") else self.run_dir,
            id=self._note.uid,
            resume="allow",
            name=config.get("name") or os.environ.get("WANDB_NAME") or self._name(),
            notes=config.get("note"),
            tags=[str(tag)[:MAX_TAG_CHARS] for tag in tags] if isinstance(tags, list) else None,
            group=self._group(),
            config={**_without_passwords(without_labels(config)), "facts": dict(self._facts)},
            allow_val_change=True,  # a longer trainer.max_steps
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,  # what it would ask for is among the facts
                disable_code=True,
                symlink=False,
                finish_timeout=MAX_FINISH_SECONDS,
                finish_timeout_raises=True,
                **options,
            ),
        )
        self._tick()
        if run.disabled:
            self._tell("wandb is disabled (WANDB_MODE): recorded in the run folder only")
        online = not (run.offline or run.disabled)
        self._first = run.step if online else self._note.points
        self._shift = max(0, self._first - self._old_rows)
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        self._note.uri = run.url if online else None
        self._note.experiment, self._note.run_id = f"{run.entity}/{run.project}", run.id
        self._waiting.update(dict.fromkeys(attachments(self.run_dir)))
        self._offset = self._row = 0
        self._run = run
        self._note.write(self.run_dir)

    def _name(self) -> str:
        run_dir, below = self.run_dir.absolute(), self._output_dir.absolute()
        if self._group() is None and run_dir.is_relative_to(below) and run_dir != below:
            return str(run_dir.relative_to(below))
        return run_dir.name

    def _group(self) -> str | None:
        """Name the sweep that this is a run of; None leaves it to WANDB_RUN_GROUP."""
        above = self.run_dir.absolute().parent
        return above.name if (above / run_folder.SWEEP).is_file() else None

    def advance(self, files: dict[Path, None], ended: tuple[str, int] | None) -> None:
        """Hand rows and files to wandb, which sends them by itself; wait for it at the end."""
        rows, end = run_folder.read_rows(self.run_dir / run_folder.METRICS, self._offset)
        for number, (step, values) in enumerate(rows, self._row):
            if number + self._shift >= self._first:
                told = {key: float("nan") if v is None else v for key, v in values.items()}
                self._run.log({STEP: step, **told}, step=number + self._shift)
            if number % ROWS_PER_TICK == 0:
                self._tick()
        self._row, self._offset = self._row + len(rows), end
        if rows:
            self._note.points = max(self._first, self._row + self._shift)
            self._note.write(self.run_dir)
        if self._row or ended is not None:
            for path in list(files):
                if path.suffix == ".png" and ended is None:
                    continue  # drawn again and again: the last one is kept
                if path.is_file() and inside(path, self.run_dir):
                    self._attach(path)
                del files[path]
        self._tick()
        if ended is not None:
            summary = RunSummary.read(self.run_dir / run_folder.SUMMARY).to_json()
            self._run.summary.update({f"run/{k}": v for k, v in flatten(summary).items()})
            self._run.finish(EXIT_CODES[ended[0]])
            self._tick()

    def _attach(self, path: Path) -> None:
        """Keep a file with the run; show samples and pictures beside the curves."""
        import wandb

        self._run.save(glob.escape(str(path)), base_path=str(self.run_dir), policy="now")
        name, last = path.relative_to(self.run_dir).parent.as_posix(), self._row - 1 + self._shift
        shown: Any = None
        if name == "samples":
            if path not in self._samples:
                self._samples.add(path)
                shown = self._sample(path)
        elif path.suffix == ".png":
            name, shown = f"{name}/{path.stem}", wandb.Image(str(path))
        if shown is not None and last >= self._first:  # a part of the row that is open
            self._run.log({name: shown}, step=last)

    def _sample(self, path: Path) -> Any:
        """What wandb shows of a sample: a text, or a sheet of pictures."""
        import wandb

        if path.suffix == ".png":
            return wandb.Image(str(path))
        text = html.escape(read_bytes(path, self.run_dir).decode("utf-8", "replace"))
        return wandb.Html(f"<pre>{text}</pre>", inject=False)


def sync_command(run_dir: Path) -> str | None:
    """Return the command that sends what wandb keeps below a run folder; None if it keeps nothing.

    A folder that `wandb sync` has sent bears a mark.
    """
    uid = Note.read(run_dir, run_folder.WANDB).uid
    kept = sorted((run_dir / run_folder.WANDB_FILES).glob(f"*run-*-{uid}"))
    left = [str(path) for path in kept if not list(path.glob("*.synced"))]
    return shlex.join(["wandb", "sync", *left]) if left else None


def _without_passwords(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_passwords(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_passwords(inner) for inner in value]
    return hide_password(value) if isinstance(value, str) else value
