"""A Markov chain whose every probability is known, and a denoiser that is exact on it."""

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from mambalab.settings.task import DiffusionSettings
from mambalab.spec import ModelSpec
from mambalab.tasks.diffusion import DiffusionTask
from mambalab.tokenization.pixels import PixelTokens
from tests.tasks.toys import PICTURES

LEVELS = 3
FIRST, MASK = LEVELS, LEVELS + 1  # tokens of a sequence: levels, the first one, the mask
SETTINGS = DiffusionSettings(
    **vars(PICTURES) | {"name": "diffusion", "seq_len": None, "eval_samples": 2}
)


class Chain:
    """Sequences of three levels, each step of which depends on the one before.

    Attributes:
        sequences: (3^l, l) int64, all of them.
        p: (3^l,) float64, their probabilities.
        entropy: in nats.
    """

    def __init__(self, length: int) -> None:
        begin = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
        step = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [0.1, 0.7, 0.2]]).double()
        self.length = length
        self.sequences = torch.tensor(list(itertools.product(range(LEVELS), repeat=length)))
        self.p = begin[self.sequences[:, 0]]
        for before, after in itertools.pairwise(self.sequences.T):
            self.p = self.p * step[before, after]
        self.entropy = float(-(self.p * self.p.log()).sum())

    def draw(self, count: int, seed: int) -> Tensor:
        """Sequences (count, l) uint8 of the chain."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.multinomial(self.p, count, replacement=True, generator=generator)
        return self.sequences[rows].to(torch.uint8)

    def task(self, **levels: Tensor) -> DiffusionTask:
        """A task of `task=diffusion` with these sequences as its splits."""
        task = DiffusionTask(SETTINGS, seed=0, data_dir=Path("nowhere"), data_fraction=1.0)
        source = task.source
        source.tokens = PixelTokens(LEVELS, 1, self.length, 1)
        source.levels = levels
        source.labels = {split: torch.zeros(len(rows)).long() for split, rows in levels.items()}
        task.spec = ModelSpec(MASK + 1, self.length + 1, masked=True)
        return task


class Exact(nn.Module):
    """The conditional distribution of each value, given those that are not hidden."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        length = chain.length
        inputs = torch.tensor(list(itertools.product(range(LEVELS + 1), repeat=length)))
        hidden = inputs == LEVELS
        fits = (hidden[:, None] | (inputs[:, None] == chain.sequences)).all(-1)  # (inputs, all)
        weights = fits.double() * chain.p
        table = torch.stack(
            [
                torch.stack([weights[:, chain.sequences[:, i] == v].sum(1) for v in range(LEVELS)])
                for i in range(length)
            ]
        )  # (l, levels, inputs)
        self.register_buffer("table", table.permute(2, 0, 1).log().clamp(min=-99).float())
        self.register_buffer("places", (LEVELS + 1) ** torch.arange(length - 1, -1, -1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (b, 1 + l) to logits (b, 1 + l, vocabulary); those of no level are the largest."""
        values = tokens[:, 1:]
        codes = (torch.where(values == MASK, LEVELS, values) * self.places).sum(1)
        logits = torch.full((*tokens.shape, MASK + 1), 99.0)
        logits[:, 1:, :LEVELS] = self.table[codes]
        return logits


def bound(task: DiffusionTask, model: nn.Module, chain: Chain) -> float:
    """The bound in nats a sequence, exactly: every sequence with every set of hidden values."""
    masks = torch.tensor(list(itertools.product([False, True], repeat=chain.length))[1:])
    total = 0.0
    with torch.no_grad():
        for mask in masks:
            values = chain.sequences.masked_fill(mask, MASK)
            first = torch.full((len(values), 1), FIRST)
            batch = torch.cat((first, values), dim=1), chain.sequences
            count = int(mask.sum())
            alike = int((masks.sum(1) == count).sum())
            nats = task.nats(model, batch)
            total += float((chain.p * nats).sum()) / (chain.length * alike)
    return total
