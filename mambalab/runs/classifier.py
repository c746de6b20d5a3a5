"""A trained classifier that is ready to name classes."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mambalab.runs.load import LoadedRun
from mambalab.settings.train import Precision
from mambalab.tasks.classification import CLASSES
from mambalab.tokenization.tokenizer import Tokenizer, load_from_run
from mambalab.train import runtime
from mambalab.utils.files import read_json

LOG = logging.getLogger("mambalab")


@dataclass
class LoadedClassifier:
    """A model that names a class for each sequence.

    Attributes:
        model: in evaluation mode, on `device`.
        classes: names of the classes; their numbers as text, if the run is of an older version
            and kept no names.
        device, precision: where and how it computes.
        name: for people.
        tokenizer: of texts that the model does not read byte by byte; else None.
    """

    model: Any
    classes: list[str]
    device: torch.device
    precision: Precision
    name: str
    tokenizer: Tokenizer | None = None

    def probabilities(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute the probability of each class.

        Args:
            inputs: as the run's task gives them (`task.inputs`): (b, l) int64 tokens, (b, 2, l)
                for pairs of texts, or (b, l, input_dim) float32 for images; on any device.
            lengths: (b,) int64 lengths of the sequences, (b, 2) for pairs; None if none is padded.

        Returns:
            (b, classes) float32 on the CPU.
        """
        inputs = inputs.to(self.device)
        lengths = None if lengths is None else lengths.to(self.device)
        with torch.no_grad(), runtime.autocast(self.device, self.precision):
            return self.model(inputs, lengths).float().softmax(-1).cpu()

    def predict(self, inputs: Tensor, lengths: Tensor | None = None) -> list[str]:
        """Name the likeliest class of each sequence; arguments as of `probabilities`."""
        found = self.probabilities(inputs, lengths).argmax(-1).tolist()
        return [self.classes[number] for number in found]


def of_run(loaded: LoadedRun, precision: Precision) -> LoadedClassifier:
    """Make the classifier of a run that was read back."""
    names = read_json(loaded.path / CLASSES, loaded.path).get("classes")
    count = loaded.spec.classes
    fits = isinstance(names, list) and len(names) == count
    if not fits:
        LOG.warning("%s keeps no names of its classes: their numbers are shown", loaded.path)
    classes = list(map(str, names if fits and names else range(count)))
    text, name = load_from_run(loaded.path), str(loaded.path)
    return LoadedClassifier(loaded.model, classes, loaded.device, precision, name, text)
