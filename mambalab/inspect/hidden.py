"""What a model of `task=diffusion` is given to read: an example, half of it hidden."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.inspect.sequence import InspectedSequence, InspectInput, by_pixel
from mambalab.runs.diffusion_pictures import stage_of
from mambalab.tasks.diffusion import DiffusionTask
from mambalab.tasks.pixels import PixelModelTask

_GAP = "_"  # what is hidden, to people


def example(task: DiffusionTask, index: int) -> InspectInput:
    """An example of the validation split, of which the model has to tell a half.

    Args:
        task: prepared.
        index: of the picture, or of the window of the text.
    """
    inputs, targets = task.half_hidden("val", index)
    values = inputs[0, -task.length :]
    gaps = (values == task.spec.mask).cpu()
    source, count = task.source, int(gaps.sum())
    channels = source.tokens.channels if isinstance(source, PixelModelTask) else 1
    title = f"{task.name}, example {index:,} of the validation split"
    facts = [("hidden", f"{count:,} of {task.length:,}, shown as {_GAP}")]
    labels = [_GAP if gap else _name(task, v) for v, gap in zip(values.tolist(), gaps, strict=True)]
    sequence = InspectedSequence(title, facts, labels, hidden=True)
    sequence.text = not isinstance(source, PixelModelTask)
    if isinstance(source, PixelModelTask):
        tokens = source.tokens
        first = "start"
        if tokens.classes:
            first = f"class {tokens.classes[int(source.labels['val'][index])]}"
            facts.append(("told", first))
        sequence.labels = [first, *labels]
        sequence.image = stage_of(values[None].cpu(), tokens, task.spec.mask)[0]
        ends = tokens.channels * (1 + torch.arange(tokens.height * tokens.width))
        sequence.layout = ends.view(tokens.height, tokens.width).numpy()

    def answer(logits: Tensor, sequence: InspectedSequence) -> None:
        known = logits[0, -task.length :, : task.kinds].float()
        losses = F.cross_entropy(known, targets[0], reduction="none").cpu()
        told = zip(known.argmax(-1).tolist(), gaps, strict=True)
        guesses = [_name(task, guess) if gap else "" for guess, gap in told]
        asked = gaps.view(-1, channels)  # of a pixel all that is hidden counts
        seen = losses.masked_fill(~gaps, 0.0).view(-1, channels).sum(1)
        sequence.loss = seen.masked_fill(~asked.any(1), float("nan")).numpy()
        sequence.guesses = by_pixel(guesses, channels)
        bits = float(losses[gaps].mean() / np.log(2))
        sequence.facts.append(("loss on what is hidden", f"{bits:.4f} bits each"))

    return InspectInput(inputs, None, sequence, answer)


def _name(task: DiffusionTask, value: int) -> str:
    """A value as people see it: a level, or a character."""
    source = task.source
    return str(value) if isinstance(source, PixelModelTask) else source.tokenizer.decode([value])
