"""A trained model of `task=pixels` that is ready to write pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambalab.errors import UserError
from mambalab.generation.cpu_decode import MAX_BATCH, narrowed
from mambalab.generation.decoding import obstacle
from mambalab.generation.sampling import Sampling
from mambalab.generation.sequences import complete
from mambalab.models.heads import LanguageModel
from mambalab.records.reader import read_run
from mambalab.runs.load import load_run
from mambalab.settings.train import Precision
from mambalab.tokenization.pixels import PIXELS, PixelTokens, load_from_run
from mambalab.train import runtime

_TASK = "mambalab.tasks.pixels.PixelModelTask"


@dataclass
class LoadedPixelModel:
    """A model that writes pictures.

    Attributes:
        model: in evaluation mode, on `device`.
        tokens: what its tokens mean.
        device, precision: where and how it computes.
        name: for people.
    """

    model: Any
    tokens: PixelTokens
    device: torch.device
    precision: Precision
    name: str

    def pictures(
        self,
        labels: Tensor,
        given: Tensor | None = None,
        *,
        rules: Sampling,
        seed: int,
        batch: int = MAX_BATCH,
        on_token: Callable[[], None] | None = None,
    ) -> Tensor:
        """Write pictures, or the rest of pictures.

        Args:
            labels: (n,) int64, the class of each; of a model that is told none, zeros.
            given: (n, k) tokens with which the pictures begin, k < `tokens.values`; None = none.
            rules: how a token is chosen; other tokens than levels never are.
            seed: of the first picture; picture i is that of seed `seed + i` alone.
            batch: pictures at the same time, at most.
            on_token: called after each value; may raise, to stop.

        Returns:
            (n, height, width, channels) uint8 on the CPU.
        """
        first = self.tokens.first(labels)[:, None]
        start = first[:, :0] if given is None else given.cpu().long()
        with runtime.autocast(self.device, self.precision):
            written = complete(
                self.model,
                torch.cat((first, start), dim=1).to(self.device),
                self.tokens.values - start.shape[1],
                rules=rules,
                seed=seed,
                batch=batch,
                on_token=on_token,
            )
        return self.tokens.pictures(torch.cat((start, written), dim=1))


def is_pixel_model(run_dir: Path) -> bool:
    """Whether a run has been trained on pictures.

    Raises:
        UserError: it has, and what its tokens mean is lost or damaged.
    """
    if load_from_run(run_dir) is not None:
        return True
    if read_run(run_dir).setting("task._target_") != _TASK:
        return False
    raise UserError(
        f"{run_dir} has lost {PIXELS}, which says what its tokens mean: bring it back from a copy, "
        "or give the run more steps (trainer.max_steps), which writes it again"
    )


def load(
    path: Path, *, device: str, precision: Precision, trust: list[str], which: str
) -> LoadedPixelModel:
    """Load the model of a run of `task=pixels`.

    Args:
        path: of the run's folder.
        device: as in the settings.
        precision: `auto` is that of the run.
        trust: modules outside mambalab whose classes the run may use.
        which: checkpoint that holds the weights: best, last or step_N.

    Raises:
        UserError: no such checkpoint, or the model cannot write.
    """
    tokens = load_from_run(path)
    assert tokens is not None, "ask is_pixel_model before"
    found = load_run(path, device=device, trust=trust, which=which)
    if why := obstacle(found.model):
        raise UserError(f"{path} cannot generate: its model {type(found.model).__name__} {why}")
    if (found.spec.vocab_size, found.spec.seq_len) != (tokens.vocab_size, tokens.values):
        raise UserError(f"{path}: pixels.json does not fit spec.json: another run's?")
    chosen = found.precision
    if precision is not Precision.auto:
        chosen = runtime.choose_precision(precision, found.device)
    model = found.model
    if chosen is Precision.bf16 and isinstance(model, LanguageModel):
        model = narrowed(model)
    return LoadedPixelModel(model, tokens, found.device, chosen, str(path))
