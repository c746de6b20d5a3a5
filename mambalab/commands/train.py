"""`mambalab train`: train a model on a task, or report the run that these settings finished."""

from mambalab.runs.training import run

__all__ = ["run"]
