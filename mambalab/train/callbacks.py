"""Callbacks: what happens after evaluations and at the end of training.

A callback is a subclass of `Callback` in the list that `Trainer(callbacks=...)` gets; those of
`mambalab train` are in `runs/callbacks.py`. They are called in the order of the list. What one
raises ends the run as an error of the loop would.
"""

from dataclasses import dataclass

from mambalab.records.summary import EndedBy, Evaluation, Status


@dataclass
class Result:
    """How a session of training ended.

    Attributes:
        status: FINISHED, or KILLED when asked to stop.
        ended_by: the limit that was reached, or the signal.
        reason: what ended it, one line for people.
        step: optimiser steps done.
        best: the best evaluation; None if there was none.
        last: metrics of the latest evaluation; empty if there was none.
        tokens_per_second: training speed after warm-up, evaluations left out; 0 if unknown.
        seconds: training time of all sessions, evaluations included.
        peak_memory_bytes: most memory held so far.
        left: what a callback could not complete, because of a signal: `test`.
    """

    status: Status
    ended_by: EndedBy
    reason: str
    step: int
    best: Evaluation | None
    last: dict[str, float]
    tokens_per_second: float
    seconds: float
    peak_memory_bytes: int
    left: str | None = None


class Callback:
    """Base class of callbacks: methods that the training loop calls; they do nothing here.

    A method may use the model: it is in training mode in `on_evaluated`, where it must be left in
    training mode, its weights and the generators of random numbers as they were; otherwise a
    resumed run would not repeat what an uninterrupted one does.
    """

    def on_evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """React to an evaluation that was recorded, before the checkpoint that follows it.

        Args:
            step: optimiser steps done; 0 before the first, if the weights are not new.
            metrics: of the validation split, by name.
        """

    def on_end(self, result: Result) -> None:
        """React to the end of training by a limit or a signal, after the last checkpoint.

        It is not called after an error.

        Args:
            result: how training ended; may be changed, it is what the run's summary will say.
        """
