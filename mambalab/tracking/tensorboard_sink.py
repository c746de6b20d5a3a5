"""The sink that writes TensorBoard's event files into the run folder.

Each session writes them anew from metrics.jsonl, which takes a second: so they equal it, whatever
happened to an earlier session, and no point is there twice.
"""

# An extra, which not everybody has.
# pyright: reportMissingImports=false

import importlib
import math
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.summary import RunSummary
from mambalab.settings.train import TrackingSettings
from mambalab.tracking.description import LABELS, without_labels
from mambalab.tracking.mlflow_files import attachments
from mambalab.tracking.mlflow_names import SECONDS_METRIC
from mambalab.tracking.note import Note
from mambalab.tracking.packages import require
from mambalab.tracking.sink import Sink
from mambalab.utils.mapping import flatten
from mambalab.utils.reading import check_no_link, inside, read_bytes
from mambalab.utils.secrets import hide_password

PREFIX = "events.out.tfevents."  # TensorBoard looks for such names
_PNG, _PNG_SIZE = b"\x89PNG\r\n\x1a\n", struct.Struct(">II")  # width and height, from byte 16 on
_TEXTS = {".txt", ".json"}
_RGBA = 4  # TensorBoard's number for a picture's colours


def check(settings: TrackingSettings) -> None:
    """Check, before anything is created, whether event files can be written as the settings ask.

    Raises:
        UserError: TensorBoard is missing, or a setting has no meaning for it.
    """
    for key in ("uri", "experiment_name"):
        if getattr(settings, key) is not None:
            raise UserError(
                f"tracking.{key}: event files lie in the run folder, TensorBoard has no such "
                f"thing; leave it out, or use tracking=mlflow"
            )
    require("tensorboard")


_SAMPLE = re.compile(r"step-(\d+)")  # the stem of a sample that training wrote


class TensorBoardSink(Sink):
    """Writes what a run folder holds to `tensorboard/` in it.

    Args:
        run_dir: the run folder, held by the caller until `finish` has returned.
        config: settings of the run, nested.
        sync_command: what a person types to write the files later.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any], *, sync_command: str) -> None:
        super().__init__(run_dir, (), sync_command=sync_command, is_remote=False)
        self._note = Note.read(run_dir, run_folder.TENSORBOARD)
        self._note.state = "sending"
        self._config = config
        self._file: Any = None
        self._writer: Any = None
        self._offset, self._step = 0, 0
        self._began = self._seconds = 0.0
        self._samples: set[Path] = set()  # written: they may be named twice, and do not change

    @property
    def note(self) -> Note:
        """What the folder knows of its event files."""
        return self._note

    @property
    def place(self) -> str:
        """Name the folder of the event files."""
        return f"TensorBoard in {self.run_dir / run_folder.EVENTS}"

    @property
    def is_open(self) -> bool:
        """Whether an event file of this session is open."""
        return self._file is not None

    def open(self) -> None:
        """Begin a new event file in place of older ones; settings and labels come first."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        Event, SessionLog = _proto("event").Event, _proto("event").SessionLog
        folder = self.run_dir / run_folder.EVENTS
        check_no_link(folder)
        folder.mkdir(exist_ok=True)
        for old in folder.glob(f"{PREFIX}*"):
            check_no_link(old)
            if old.stat().st_size:
                os.truncate(old, 0)  # a page that is open stays at a file that is gone
            else:
                old.unlink()
        self._began = RunSummary.read(self.run_dir / run_folder.SUMMARY).started or time.time()
        self._offset = self._step = self._note.points = 0
        self._seconds = 0.0
        self._samples.clear()
        self._waiting.update(dict.fromkeys(attachments(self.run_dir)))
        # TensorBoard reads the files of a folder in the order of their names.
        now = f"{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / f"{PREFIX}{now}").open("wb")
        try:
            self._writer = RecordWriter(self._file)
            self._write(Event(file_version="brain.Event:2"))
            # A page that is open forgets the points it had: they come again.
            self._write(Event(session_log=SessionLog(status=SessionLog.START)))
            values = {k: _shown(v) for k, v in flatten(without_labels(self._config)).items()}
            name = hide_password(str(self.run_dir.absolute()))
            self._write(Event(summary=hparams_pb(values, trial_id=name)))
            labels = {k: self._config[k] for k in LABELS if self._config.get(k)}
            if labels:
                self._text("run", "\n\n".join(f"**{k}** {_shown(v)}" for k, v in labels.items()))
            self._file.flush()
        except BaseException:
            self._close()
            raise
        self._note.write(self.run_dir)
        self._tick()

    def advance(self, files: dict[Path, None], ended: tuple[str, int] | None) -> None:
        """Write points, samples and pictures; a file that fails is given up for a new one."""
        try:
            rows, self._offset = run_folder.read_rows(
                self.run_dir / run_folder.METRICS, self._offset
            )
            self._points(rows)
            for path in list(files):
                if path.parent.name != "samples" and ended is None:
                    continue  # pictures and tables come again and again: their last state is kept
                if path.is_file() and inside(path, self.run_dir):
                    self._attach(path)
                del files[path]
            self._file.flush()
        except BaseException:
            self._close()
            raise
        self._tick()
        if ended is not None:
            self._file.close()

    def _points(self, rows: Iterable[run_folder.Row]) -> None:
        Summary = _proto("summary").Summary
        for step, values in rows:
            self._seconds = values.get(SECONDS_METRIC) or self._seconds
            self._step = max(self._step, step)
            found = [
                Summary.Value(tag=key, simple_value=math.nan if value is None else value)
                for key, value in values.items()
            ]
            self._summary(Summary(value=found), step)
            self._note.points += len(found)

    def _attach(self, path: Path) -> None:
        """Write a sample, a table or a picture as the newest of its name."""
        Summary = _proto("summary").Summary
        data = read_bytes(path, self.run_dir)
        tag, step = path.relative_to(self.run_dir).with_suffix("").as_posix(), self._step
        if path.parent.name == "samples":
            if path in self._samples:
                return
            self._samples.add(path)
            if (found := _SAMPLE.fullmatch(path.stem)) is not None:  # else somebody's own
                tag, step = "samples", int(found[1])
        if path.suffix in _TEXTS:
            self._text(tag, "    " + data.decode("utf-8", "replace").replace("\n", "\n    "), step)
        elif data.startswith(_PNG):
            width, height = _PNG_SIZE.unpack_from(data, 16)
            image = Summary.Image(
                height=height, width=width, colorspace=_RGBA, encoded_image_string=data
            )
            self._summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def _text(self, tag: str, text: str, step: int = 0) -> None:
        """Write a text in Markdown."""
        from torch.utils.tensorboard import summary

        self._summary(summary.text(tag, text), step)

    def _summary(self, summary: Any, step: int) -> None:
        self._write(_proto("event").Event(summary=summary, step=step))

    def _write(self, event: Any) -> None:
        event.wall_time = self._began + self._seconds  # the run's own time, without its pauses
        self._writer.write(event.SerializeToString())

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _proto(name: str) -> Any:
    """Import generated classes, of which type checkers see nothing."""
    return importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")


def _shown(value: object) -> bool | int | float | str:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return hide_password("null" if value is None else str(value))
