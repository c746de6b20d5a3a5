"""The line that shows where a run stands."""

import io

from mambalab.train.progress import Progress


def test_a_loss_that_was_not_logged_yet_is_not_shown():
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.update(0.1, 1, float("nan"), "val/loss 2.5000", 0.0, milestone=True)
    progress.update(0.2, 2, 2.25, "", 0.0, milestone=True)
    first, second = stream.getvalue().splitlines()
    assert first.startswith(" 10%  step 1  val/loss 2.5000  ")
    assert second.startswith(" 20%  step 2  loss 2.2500  ")
