"""What a run folder knows of its run in a tracker: `mlflow_run.json` and the like.

A folder that is renamed or moved stays the same run; a copy of it becomes a run of its own. So the
note holds the folder's place: it is a copy if another folder lies there and holds the same note.
"""

import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.summary import RunSummary, Status
from mambalab.utils.files import read_json, write_json

_NOT_WRITTEN = {"copy_of", "name"}
ENDED = (Status.FINISHED, Status.FAILED, Status.KILLED)


@dataclass
class Note:
    """The note of one folder, of a run or a sweep.

    Attributes:
        uid: identity of the run in every store it is sent to.
        uri, experiment, run_id: where it was sent last; run_id is None before it exists.
        name: of the note's file, one for each kind of tracker; not written.
        state: `new`, `sending`, `behind` (the store lacks something) or `complete`.
        problem: why it is behind, one line.
        points: (key, step) pairs the store is known to hold; for wandb rows of metrics.jsonl.
        folder: absolute path of the folder when the note was written.
        copy_of: the folder of which this one was found to be a copy; not written.
    """

    uid: str
    uri: str | None = None
    experiment: str | None = None
    run_id: str | None = None
    state: str = "new"
    problem: str | None = None
    points: int = 0
    folder: str | None = None
    copy_of: Path | None = field(default=None, compare=False)
    name: str = run_folder.MLFLOW

    @classmethod
    def new(cls, copy_of: Path | None = None, name: str = run_folder.MLFLOW) -> "Note":
        """Begin a note: no store has heard of the run."""
        return cls(uuid.uuid4().hex, copy_of=copy_of, name=name)

    @classmethod
    def read(cls, run_dir: Path, name: str = run_folder.MLFLOW) -> "Note":
        """Read the note of a folder, or begin one where there is none and in a copy.

        Raises:
            UserError: the note is damaged.
        """
        data = read_json(run_dir / name, run_dir)
        fields = cls.__dataclass_fields__.keys() - _NOT_WRITTEN
        known = {key: value for key, value in data.items() if key in fields}
        if not isinstance(known.get("uid"), str):
            return cls.new(name=name)
        note = cls(**known, name=name)
        if note.folder is not None and holds(
            Path(note.folder), note.uid, besides=run_dir, name=name
        ):
            return cls.new(copy_of=Path(note.folder), name=name)
        return note

    def write(self, run_dir: Path) -> None:
        """Save the note in a run folder."""
        self.folder = str(run_dir.absolute())
        data = {key: value for key, value in asdict(self).items() if key not in _NOT_WRITTEN}
        write_json(run_dir / self.name, data)

    def set_complete(self, run_dir: Path) -> None:
        """Save that the store has the whole run."""
        self.state, self.problem = "complete", None
        self.write(run_dir)


def holds(
    folder: Path, uid: str, *, besides: Path | None = None, name: str = run_folder.MLFLOW
) -> bool:
    """Whether a folder has the note with this uid, and is another one than `besides`."""
    try:
        if besides is not None and folder.samefile(besides):
            return False
        return read_json(folder / name, folder).get("uid") == uid
    except (OSError, UserError, ValueError):
        return False


def ended_as(folder: Path, uid: str) -> str | None:
    """Say how the run or sweep in a folder ended, if it has, and if it is the one with this uid."""
    if not holds(folder, uid):
        return None
    name = run_folder.SWEEP if (folder / run_folder.SWEEP).is_file() else run_folder.SUMMARY
    try:
        status = RunSummary.read(folder / name).status
    except (OSError, UserError):
        return None
    return status.value if status is not None and status in ENDED else None
