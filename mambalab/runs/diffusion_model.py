"""A trained model of `task=diffusion` that is ready to fill in pictures or texts."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mambalab.errors import UserError
from mambalab.generation.infilling import Filled, fill
from mambalab.generation.sampling import Sampling
from mambalab.runs import load as runs
from mambalab.runs import rebuild
from mambalab.settings.generate import Order
from mambalab.settings.train import Precision
from mambalab.spec import ModelSpec
from mambalab.tokenization import pixels, tokenizer
from mambalab.tokenization.pixels import PIXELS, PixelTokens
from mambalab.tokenization.tokenizer import VOCABULARY, Tokenizer
from mambalab.train import runtime

LOG = logging.getLogger("mambalab")
BATCH = 16  # sequences at the same time, if nothing else is said
STEPS = 64  # at most, if nothing else is said


@dataclass
class LoadedDenoiser:
    """A model that fills in what is hidden.

    Attributes:
        model: in evaluation mode, on `device`.
        spec: the shape of its task.
        meaning: what its tokens mean, those of pictures or of a text.
        device, precision: where and how it computes.
        name: for people.
        steps, order: how `fill` goes about it.
    """

    model: Any
    spec: ModelSpec
    meaning: PixelTokens | Tokenizer
    device: torch.device
    precision: Precision
    name: str
    steps: int = STEPS
    order: Order = Order.random

    @property
    def tokens(self) -> PixelTokens:
        """What the tokens of pictures mean."""
        assert isinstance(self.meaning, PixelTokens), "a model of texts"
        return self.meaning

    @property
    def text(self) -> Tokenizer:
        """What the tokens of texts mean."""
        assert not isinstance(self.meaning, PixelTokens), "a model of pictures"
        return self.meaning

    @property
    def kinds(self) -> int:
        """Values that a position can have."""
        meaning = self.meaning
        return meaning.levels if isinstance(meaning, PixelTokens) else meaning.vocab_size

    def plan(self, asked: int | None, gaps: int) -> None:
        """Choose the steps that `fill` takes: as asked for, one for each gap at most.

        None means one for each gap, `STEPS` at most. Says so if there are fewer than asked for.
        """
        if asked is not None and asked > gaps:
            LOG.warning("steps=%s is taken as %s, one for each position to fill in", asked, gaps)
        self.steps = min(STEPS if asked is None else asked, gaps)

    def fill(
        self,
        sequences: Tensor,
        *,
        rules: Sampling,
        seed: int,
        batch: int = BATCH,
        stages: int = 0,
        shown: int | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Filled:
        """Fill in the gaps (`spec.mask`) of sequences (n, l); arguments as of `infilling.fill`.

        A shorter sequence is read with gaps behind it that stay: the model learnt from whole
        windows, and what it tells of a place with others hidden is right whatever they hold.
        """
        with runtime.autocast(self.device, self.precision):
            return fill(
                self._read,
                sequences.to(self.device),
                mask=self.spec.mask,
                steps=self.steps,
                order=self.order,
                rules=rules,
                seed=seed,
                batch=batch,
                stages=stages,
                shown=shown,
                on_step=on_step,
            )

    def _read(self, sequences: Tensor) -> Tensor:
        """Logits (n, l, v) for sequences (n, l), read as long as those of the training."""
        length = sequences.shape[1]
        whole = F.pad(sequences, (0, self.spec.seq_len - length), value=self.spec.mask)
        return self.model(whole)[:, :length]

    def with_gaps(self, labels: Tensor, values: Tensor, gaps: Tensor) -> Tensor:
        """Sequences (n, 1 + l) int64 of pictures with gaps.

        Args:
            labels: (n,) int64, the class of each; of a model that is told none, zeros.
            values: (n or 1, l) tokens; those at gaps do not matter.
            gaps: (l,) bool.
        """
        hidden = values.long().masked_fill(gaps, self.spec.mask).expand(len(labels), -1)
        return torch.cat((self.tokens.first(labels)[:, None], hidden), dim=1)

    def pictures(
        self,
        labels: Tensor,
        given: Tensor | None = None,
        *,
        rules: Sampling,
        seed: int,
        batch: int = BATCH,
        on_token: Callable[[], None] | None = None,
    ) -> Tensor:
        """Make pictures, or the rest of pictures; arguments as of `LoadedPixelModel.pictures`.

        Returns:
            (n, height, width, channels) uint8 on the CPU.
        """
        values = torch.zeros(len(labels), self.tokens.values, dtype=torch.int64)
        known = 0 if given is None else given.shape[1]
        if given is not None:
            values[:, :known] = given.cpu()
        start = self.with_gaps(labels, values, torch.arange(self.tokens.values) >= known)
        found = self.fill(start, rules=rules, seed=seed, batch=batch, on_step=on_token)
        return self.tokens.pictures(found.tokens[:, 1:])


def is_denoiser(run_dir: Path) -> bool:
    """Whether a run is of masked diffusion, by its shapes; no, if its folder has lost them."""
    spec = runs.read_spec(run_dir) if runs.has_spec(run_dir) else rebuild.spec(run_dir)
    return spec is not None and spec.masked


def load(
    path: Path, *, device: str, precision: Precision, trust: list[str], which: str
) -> LoadedDenoiser:
    """Load the model of a run of `task=diffusion`.

    Args:
        path: of the run's folder.
        device: as in the settings.
        precision: `auto` is that of the run.
        trust: modules outside mambalab whose classes the run may use.
        which: checkpoint that holds the weights: best, last or step_N.

    Raises:
        UserError: no such checkpoint, or the run has lost what its tokens mean.
    """
    meaning = pixels.load_from_run(path) or tokenizer.load_from_run(path)
    if meaning is None:
        raise UserError(
            f"{path} has lost {PIXELS} or {VOCABULARY}, which says what its tokens mean: bring "
            "it back from a copy, or give the run more steps (trainer.max_steps), which writes it "
            "again"
        )
    found = runs.load_run(path, device=device, trust=trust, which=which)
    known, steps = meaning.vocab_size, None
    if isinstance(meaning, PixelTokens):
        steps = 1 + meaning.values
    if found.spec.mask != known or steps not in (None, found.spec.seq_len):
        name = VOCABULARY if steps is None else PIXELS
        raise UserError(f"{path}: {name} does not fit spec.json: another run's?")
    chosen = found.precision
    if precision is not Precision.auto:
        chosen = runtime.choose_precision(precision, found.device)
    return LoadedDenoiser(found.model, found.spec, meaning, found.device, chosen, str(path))
