"""What a run of `task=diffusion` makes as it trains, into `samples/`."""

from typing import Any

import torch
from torch import nn

from mambalab.generation.sampling import Sampling
from mambalab.runs.callbacks import Sample, TextSample
from mambalab.runs.diffusion_model import LoadedDenoiser
from mambalab.runs.pixel_sheet import PixelSheet
from mambalab.settings.generate import Order
from mambalab.tasks.diffusion import DiffusionTask
from mambalab.tasks.pixels import PixelModelTask
from mambalab.train.progress import StoppedError

STEPS = 32  # of pictures and texts made as training goes on: each reads them whole


def sample_of(model: nn.Module, task: DiffusionTask, *, length: int, **options: Any) -> Sample:
    """Make the callback: a sheet as of `task=pixels`, in random order, or a text.

    Args:
        model, task, options: as of `Sample`.
        length: characters of a text, at most.
    """
    source = task.source
    if not isinstance(source, PixelModelTask):
        text: Any = task
        return FilledTextSample(model, text, length=min(length, task.length), **options)
    place = str(options["folder"])
    device, precision = options["device"], options["precision"]
    spec, tokens = task.spec, source.tokens
    writer = LoadedDenoiser(model, spec, tokens, device, precision, place, STEPS, Order.random)
    return PixelSheet(model, source, writer, **options)


class FilledTextSample(TextSample):
    """Writes a text of which nothing was given, as `TextSample` writes one from its beginning.

    Args:
        model, task, length, options: as of `TextSample`; the text has `length` characters.
    """

    task: Any

    def obstacle(self) -> str | None:
        """Say nothing: every model of this task can fill in."""
        return None

    def sample(self) -> str:
        """Fill in a text of gaps, at temperature 1."""
        text, spec = self.task.source.tokenizer, self.task.spec
        place, rules = str(self.folder), Sampling(allowed=text.vocab_size)
        writer = LoadedDenoiser(
            self.model, spec, text, self.device, self.precision, place, STEPS, Order.random
        )
        gaps = torch.full((1, self.length), spec.mask)
        found = writer.fill(gaps, rules=rules, seed=self.seed, on_step=self._check)
        return text.decode(found.tokens[0].tolist()) + "\n"

    def _check(self) -> None:
        if name := self.stop_requested():
            raise StoppedError(name)
