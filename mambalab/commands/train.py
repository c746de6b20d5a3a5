"""`mambalab train`: train a model on a task, or report the run that these settings finished."""

from mambalab.config.schema import TrainConfig

__all__ = ["TrainConfig", "run"]


def run(settings: TrainConfig) -> int:
    """Train, or report the finished run; returns the exit status. See `runs.training.run`."""
    from mambalab.utils import console

    if settings.figure.font is not None:
        from mambalab.plots.look import check_font

        check_font(settings.figure)
    with console.meanwhile("loading PyTorch"):
        from mambalab.runs import training

    return training.run(settings)
