"""Typed contents of summary.json: how a run was made, how far it came, how it ended.

The file is a flat JSON object, one key for each field of `RunSummary`. A key that the file lacks is
None here. What a field cannot hold (a key of another version, a value of another type) is kept in
`other` and written back.
"""

import dataclasses
import sys
import time
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Self

from mambalab.errors import UserError
from mambalab.utils import process
from mambalab.utils.files import read_json, write_json


class Status(StrEnum):
    """State of a run."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


class EndedBy(StrEnum):
    """What ended a run: a limit of the settings, a signal, or an error."""

    max_steps = "max_steps"
    max_epochs = "max_epochs"
    max_minutes = "max_minutes"
    patience = "patience"
    SIGINT = "SIGINT"
    SIGTERM = "SIGTERM"
    SIGHUP = "SIGHUP"
    error = "error"


BY_STEPS = frozenset([EndedBy.max_steps, EndedBy.max_epochs])  # ends that can be repeated exactly


@dataclass
class Evaluation:
    """Metrics of the validation split at one step.

    Attributes:
        step: optimiser steps done.
        metrics: values by name, e.g. `val/loss`.
    """

    step: int
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Flatten to one JSON object, the step first."""
        return {"step": self.step, **self.metrics}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` returned; raises TypeError or KeyError for anything else."""
        metrics = _metrics(value)
        return cls(step=_whole(metrics.pop("step")), metrics=metrics)


@dataclass
class FinalTestResult:
    """Metrics of the test split, measured once with the weights that validation chose.

    Attributes:
        step: optimiser steps after which these weights were saved; None if not noted.
        times: how many times the run measured its test split, None if not noted; more than once
            only if it was trained further and other weights became the best.
        metrics: values by name, e.g. `test/accuracy`.
    """

    step: int | None
    times: int | None
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Flatten to one JSON object, step and times first."""
        facts = {"step": self.step, "times": self.times}
        return {**{k: v for k, v in facts.items() if v is not None}, **self.metrics}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` returned; raises TypeError for anything else."""
        metrics = _metrics(value)
        step, times = metrics.pop("step", None), metrics.pop("times", None)
        return cls(
            step=None if step is None else _whole(step),
            times=None if times is None else _whole(times),
            metrics=metrics,
        )


@dataclass
class RunSummary:
    """Everything that summary.json holds, in the order in which it is written.

    Attributes:
        task: name of the task, `task.name`.
        model: name of the model, `model.name`.
        dropout: name of the dropout preset, `dropout.name`.
        seed: the run's seed.
        parameters: number of the model's parameters, tied ones counted once.
        device: name of the processor and its threads, or of the GPU, for people.
        threads: of the CPU that training used.
        processes: how many trained together; None = one.
        strategy: how they did: ddp or fsdp2; None = there was one.
        load: the machine's load average of one minute when the last session began: how many
            threads of other programs wanted to run.
        precision: `fp32`, `bf16` or `fp16`, the arithmetic of matrix products; a resumed run keeps
            it.
        command: the command line of the last session, without passwords; that of the sweep for
            one of its runs, the one that means the same for `mambalab.train`. None in old runs.
        git_revision: commit of the code, with `+changes` if the tree was dirty; None outside git.
        earlier_revisions: of the sessions before the last, where they had another commit, the
            oldest first, separated by commas.
        packages: versions by package name, that of Python among them.
        backend: kernels of the selective scan: cpu, triton, torch or reference; None if no layer
            has a scan.
        passed_over: by backend that would be faster, why it cannot run here.
        checkpoint: `path` and `sha256` of the checkpoint that the run began with; None if it
            began with fresh weights.
        ema: decay of the moving average that the measured weights are, `trainer.ema`; None if they
            are the weights themselves.
        metric: name of the metric by which weights are chosen, e.g. `val/loss`.
        maximize: whether more of the metric is better.
        data: where the data came from; `sha256` is their identity.
        uid: identity of the run, which its checkpoints hold, too: no other run's are taken for its
            own. A copy of the folder has the same.
        started: Unix time in seconds at which the first session began.
        status: state of the run, as its last session left it.
        resumed_from: steps done when the last session began; None if it began the run.
        lengthened_at: steps of a finished run when it was first given more of them and its learning
            rate rose again; None if that never happened.
        ended_by: what ended the last session.
        reason: how it ended, one line for people.
        step: optimiser steps done.
        epochs: passes over the training data done; None where the task draws without end.
        best: the evaluation that did best on `metric`; None if there was none.
        last: metrics of the latest evaluation; empty if there was none.
        tokens_per_second: training speed after warm-up, evaluations left out, of the last session
            on this device that was long enough to tell; 0 if none was.
        seconds: training time of all sessions, evaluations included.
        wall_seconds: time of all sessions from the building of task and model to the end of the
            final test, killed ones left out; None if an earlier session did not record it.
        tokens_per_step: tokens that one optimiser step sees: steps of all sequences, those of both
            texts of a pair; a step of an image is some of its pixels.
        tracking_share: share in [0, 1] of the last session's time that its training thread spent
            in recording.
        skipped_steps: optimiser steps that were left out because gradients overflowed; None unless
            in fp16.
        peak_memory_bytes: most memory held in training: of the GPU's allocator, or resident.
        left: what is left to do: `test` if training is complete and the run was stopped in its
            final test; None otherwise.
        test: metrics of the test split.
        host: name of the machine on which the last session ran.
        pid: process id of the last session.
        born: when that process started, in clock ticks since boot; empty where that is unknown.
            It tells the process from a later one with the same id.
        unheard: a signal that asked a run to stop which ended by itself meanwhile; not written.
        other: what no field can hold, by key; written back as it was.
        nulls: names of the fields that are None and written all the same, as `key: null`; other
            fields that are None are left out of the file.
    """

    task: str | None = None
    model: str | None = None
    dropout: str | None = None
    seed: int | None = None
    parameters: int | None = None
    device: str | None = None
    threads: int | None = None
    processes: int | None = None
    strategy: str | None = None
    load: float | None = None
    precision: str | None = None
    command: str | None = None
    git_revision: str | None = None
    earlier_revisions: str | None = None
    packages: dict[str, str] | None = None
    backend: str | None = None
    passed_over: dict[str, str] | None = None
    checkpoint: dict[str, str] | None = None
    ema: float | None = None
    metric: str | None = None
    maximize: bool | None = None
    data: dict[str, str] | None = None
    uid: str | None = None
    started: float | None = None
    status: Status | None = None
    resumed_from: int | None = None
    lengthened_at: int | None = None
    ended_by: EndedBy | None = None
    reason: str | None = None
    step: int | None = None
    epochs: float | None = None
    best: Evaluation | None = None
    last: dict[str, float] | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    wall_seconds: float | None = None
    tokens_per_step: int | None = None
    tracking_share: float | None = None
    skipped_steps: int | None = None
    peak_memory_bytes: int | None = None
    left: str | None = None
    test: FinalTestResult | None = None
    host: str | None = None
    pid: int | None = None
    born: str | None = None
    unheard: str | None = None
    other: dict[str, Any] = field(default_factory=dict)
    nulls: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a summary.json; every field is None if there is no such file.

        Raises:
            UserError: the file is damaged: it is no JSON object.
        """
        try:
            return cls.from_json(read_json(path, path.parent))
        except UserError as error:
            raise UserError(
                f"{error}; the run's own `mambalab train` command writes it anew"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file in one step; raises OSError if that fails, the old file stays then."""
        write_json(path, self.to_json())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Sort the keys of a JSON object into fields and `other`; never fails."""
        summary = cls()
        for key, value in data.items():
            parse = _PARSERS.get(key)
            if parse is not None and value is None:
                summary.nulls.add(key)
                continue
            try:
                if parse is None:
                    raise KeyError(key)
                setattr(summary, key, parse(value))
            except (TypeError, ValueError, KeyError):
                summary.other[key] = value
        return summary

    def to_json(self) -> dict[str, Any]:
        """Make the JSON object that is written: fields in their order, then `other`."""
        found: dict[str, Any] = {}
        for key in _PARSERS:
            value = getattr(self, key)
            if isinstance(value, (Evaluation, FinalTestResult)):
                found[key] = value.to_json()
            elif value is not None or key in self.nulls:
                found[key] = value.value if isinstance(value, Enum) else value
        return {**found, **{k: v for k, v in self.other.items() if k not in found}}

    def updated(self, newer: "RunSummary") -> Self:
        """Return a copy in which what `newer` says takes the place of what this one says."""
        return type(self).from_json({**self.to_json(), **newer.to_json()})

    def revisions(self) -> list[str]:
        """The commits of all sessions, the oldest first, each once; those outside git left out."""
        every = [*(self.earlier_revisions or "").split(", "), self.git_revision]
        return list(dict.fromkeys(revision for revision in every if revision))

    def follow(self, previous: "RunSummary") -> None:
        """Take over what is still true of the sessions before: when the run began, how fast it was
        here, which code they ran.
        """
        self.started = previous.started
        if self.resumed_from is not None:
            self.lengthened_at = previous.lengthened_at or self.lengthened_at
        if previous.device == self.device and previous.threads == self.threads:
            self.tokens_per_second = previous.tokens_per_second
        if previous.started is None:
            self.started = round(time.time(), 3)
            return
        others = [one for one in previous.revisions() if one != self.git_revision]
        self.earlier_revisions = ", ".join(others) or None

    def sign(self) -> None:
        """Set `host`, `pid` and `born` to those of this process, which writes the summary."""
        identity = process.identity()
        self.host, self.pid, self.born = identity["host"], identity["pid"], identity["born"]

    def writer_alive(self) -> bool | None:
        """Whether the process that signed still lives; None if that cannot be known here."""
        return process.alive(self.to_json())  # a pid may be text, if MLflow kept it


def _metrics(value: Any) -> dict[str, float]:
    """Copy metrics by name; raises TypeError for anything but an object.

    A task of the user's own may have put other values among its metrics: they stay as they are.
    """
    if not isinstance(value, dict):
        raise TypeError("no metrics by name")
    return dict(value)


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):  # a user's own task may put other things than texts in it
        raise TypeError("no object")
    return dict(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> int:
    if not _is_number(value) or abs(value) >= 2**63 or int(value) != value:  # NaN: not equal
        raise TypeError("no whole number")
    return int(value)  # another program may have written 20 as 20.0


def _number(value: Any) -> float:
    if not _is_number(value):
        raise TypeError("no number")
    if abs(value) > sys.float_info.max and isinstance(value, int):
        raise ValueError("too large")
    return value  # as it was read: 3 stays 3


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _truth(value: Any) -> bool:
    if value not in (True, False):
        raise TypeError("neither true nor false")
    return bool(value)  # another program may have written 1


def _parser(kind: Any) -> Callable[[Any], Any]:
    """Choose the function that reads a value of a field's type from JSON."""
    if isinstance(kind, types.UnionType):
        (kind,) = (k for k in typing.get_args(kind) if k is not types.NoneType)
    simple = {str: _text, int: _whole, float: _number, bool: _truth}
    simple |= {dict[str, float]: _metrics, dict[str, str]: _texts}
    if kind in simple:
        return simple[kind]
    return kind if issubclass(kind, Enum) else kind.from_json


_TYPES = typing.get_type_hints(RunSummary)
_PARSERS: dict[str, Callable[[Any], Any]] = {
    f.name: _parser(_TYPES[f.name])
    for f in dataclasses.fields(RunSummary)
    if f.name not in ("other", "nulls", "unheard")
}
