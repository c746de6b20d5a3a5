"""Pictures and texts that a model fills in from both sides: `task=diffusion`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambalab.settings.task import DiffusionSettings, TextSettings
from mambalab.spec import ModelSpec
from mambalab.tasks import masking
from mambalab.tasks.base import Task
from mambalab.tasks.pixels import PixelModelTask
from mambalab.tasks.sampling import draw, shuffled
from mambalab.tasks.text import ShakespeareTask

DiffusionBatch = tuple[Tensor, Tensor]

_SEQ_LEN = 256  # characters of a window, if nothing else is said
_VAL_FRACTION = 0.1  # of tiny Shakespeare, as `task=shakespeare` has it


class DiffusionTask(Task):
    """Predict the hidden values of a sequence from the others: masked (absorbing) diffusion.

    The forward process of D3PM (arXiv 2107.03006) hides each position by time t with probability
    1 - alpha_t = t; the model undoes it. Its negative evidence lower bound in continuous time is
    E_t [1/t sum over hidden i of -log p(x_i | what is not hidden)] (MDLM, arXiv 2406.07524, with
    its log-linear schedule alpha_t = 1 - t), an *upper* bound of the negative log likelihood of x.
    The model is not told t: what is to be predicted depends on the values that are not hidden, not
    on t, and MDLM found that conditioning on it changes next to nothing.

    *Estimator*: the number k of hidden positions of L is drawn uniformly from 1 ... L, then which;
    their mean loss, times L, estimates the same bound (LLaDA, arXiv 2502.09992, eq. 14). It follows
    from t by averaging: given t, k is binomial, so P(k) = 1 / (L + 1) for k = 0 ... L and
    E[1/t | k] = (L + 1) / k. Weights 1/t have a variance without bound at small t, (L + 1) / k is
    their conditional mean and so has a smaller one (Rao-Blackwell), and leaving out k = 0, of which
    nothing is learnt, a smaller one again. Noise levels of a batch are stratified (`masking`).

    *Tokens*: pictures are those of `task=pixels`: levels, then the first tokens (of the class, with
    `task.classes`), of which one stands before each picture and is never hidden; a text has its
    characters. After these comes one more token, `spec.mask`, for what is hidden. It is never
    predicted, nor are first tokens: only values are.

    *Metrics*: of pictures `<split>/loss` (nats per value), `<split>/bits_per_dim` and
    `<split>/nats_per_image`, as `task=pixels` has them; of texts `<split>/loss` (nats per
    character) and `<split>/bits_per_char`, as `task=shakespeare`; all are estimates of upper
    bounds. Each sequence is measured `task.eval_samples` times, with noise that is the same in
    every evaluation of every model. `<split>/loss_stderr` is the standard error of `loss` by that
    noise, from the differences between the samples.

    *Splits* are those of `task=pixels` or `task=shakespeare`. A text is measured in windows of
    `task.seq_len` that lie side by side, the last one shorter, each on its own.

    Attributes:
        source: the task that has the data: its tokens, `levels` and `labels`, or its tokenizer.
    """

    settings: DiffusionSettings
    splits = ("train", "val", "test", "train_sample")
    shares = True
    source: PixelModelTask | ShakespeareTask

    def __init__(
        self, settings: DiffusionSettings, *, seed: int, data_dir: Path, data_fraction: float
    ) -> None:
        """Keep the options; reads no file.

        Raises:
            UserError: an option out of range.
        """
        super().__init__(settings, seed=seed, data_dir=data_dir, data_fraction=data_fraction)
        self.source = self._source()
        self.splits = self.source.splits
        self.unit = "tokens" if settings.is_text() else "images"
        self.loss_unit = f"{self.source.loss_unit}, upper bound"

    def _source(self) -> PixelModelTask | ShakespeareTask:
        settings = self.settings
        if not settings.is_text():
            return PixelModelTask(
                settings,
                seed=self.seed,
                data_dir=self.data_dir,
                data_fraction=self.data_fraction,
            )
        text = TextSettings(
            name=settings.name,
            _target_=settings._target_,
            batch_size=settings.batch_size,
            eval_batch_size=settings.eval_batch_size,
            tune=settings.tune,
            params={},
            path=None,
            tokenizer=None,
            seq_len=settings.seq_len or _SEQ_LEN,
            val_fraction=_VAL_FRACTION,
            windows=None,
        )
        return ShakespeareTask(
            text, seed=self.seed, data_dir=self.data_dir, data_fraction=self.data_fraction
        )

    def prepare(self, device: str | torch.device = "cpu") -> None:
        """Read the data, split them, and put them on `device`.

        Raises:
            UserError: the data cannot be had, or do not fit the settings.
        """
        self.source.prepare(device)
        self.tunes = self.source.tunes
        self.spec = _masked(self.source)

    def known_spec(self) -> ModelSpec | None:
        """Return the shape; not of a text, nor of a folder's pictures with classes.

        Raises:
            UserError: the pictures are smaller than `task.size`.
        """
        found = self.source.known_spec()
        return None if found is None else _masked(self.source, found)

    @property
    def kinds(self) -> int:
        """Values that a position can have, the first tokens of the vocabulary."""
        source = self.source
        if isinstance(source, PixelModelTask):
            return source.tokens.levels
        return source.tokenizer.vocab_size

    @property
    def length(self) -> int:
        """Values of a sequence."""
        return self.spec.seq_len - isinstance(self.source, PixelModelTask)

    @property
    def units_per_batch(self) -> int:
        """Pictures, or characters, in a training batch."""
        return self.items_per_batch if self.settings.is_text() else self.settings.batch_size

    @property
    def batches_per_epoch(self) -> float:
        """Batches that show as many values as the training split has."""
        return self.source.batches_per_epoch

    def describe_data(self) -> str:
        """Describe the data in a line, as their own task does."""
        what = f" of text, windows of {self.length:,}" if self.settings.is_text() else ""
        return self.source.describe_data().replace(self.name, f"{self.name}{what}", 1)

    def fingerprint(self) -> dict[str, str]:
        """sha256 and origin of the data, as their own task has them: they are the same data."""
        return self.source.fingerprint()

    def assets(self) -> dict[str, str]:
        """What the tokens mean, but for the mask, which is the last."""
        return self.source.assets()

    def batch(self, position: int) -> DiffusionBatch:
        """Build batch `position`: inputs with hidden values, and the targets (b, length) int64.

        Inputs are int64, (b, length) or, of pictures, (b, 1 + length).
        """
        count, length, source = self.settings.batch_size, self.length, self.source
        hidden = masking.for_training(self.seed, position, count, length)
        if isinstance(source, PixelModelTask):
            total = len(source.levels["train"])
            rows = shuffled(self.seed, position, count=count, total=total)
            return self._hidden(source.inputs("train", rows), hidden)
        every = source.split_tokens("train").unfold(0, length, 1)  # a view, no copy
        starts = draw(self.seed, position, count=count, bound=len(every))
        targets = every[torch.from_numpy(starts).to(every.device)].long()
        return self._hidden((targets, targets), hidden)

    def _hidden(self, found: tuple[Tensor, Tensor], hidden: np.ndarray) -> DiffusionBatch:
        """Hide values: inputs and targets.

        Args:
            found: inputs of the source, of which the first token is taken, and the targets (n, l).
            hidden: (n, l) bool.
        """
        inputs, targets = found
        mask = torch.from_numpy(hidden).to(targets.device)
        values = targets.masked_fill(mask, self.spec.mask)
        if isinstance(self.source, PixelModelTask):
            values = torch.cat((inputs[:, :1], values), dim=1)
        return values, targets

    def loss(self, model: nn.Module, batch: DiffusionBatch) -> Tensor:
        """Estimate the bound in nats per value: a float32 scalar, the mean over the sequences."""
        return self._each(model, batch).mean()

    def nats(self, model: nn.Module, batch: DiffusionBatch) -> Tensor:
        """Estimate the bound (b,) float64 on the negative log likelihood of each sequence."""
        return self._each(model, batch).double() * batch[1].shape[1]

    def _each(self, model: nn.Module, batch: DiffusionBatch) -> Tensor:
        """Mean loss (b,) float32 of each sequence's hidden values: the bound by its length."""
        inputs, targets = batch
        length = targets.shape[1]
        logits = model(inputs)[:, -length:, : self.kinds].float()
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        hidden = inputs[:, -length:] == self.spec.mask
        return each.view(targets.shape).masked_fill(~hidden, 0.0).sum(1) / hidden.sum(1)

    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """Estimate the bound on a split: per value, in bits, per picture; and its error."""
        samples = self.settings.eval_samples
        total = np.zeros(samples)
        for sample, name, rows in self.eval_batches(self._measured(split)):
            batch = self._noisy(split, name, rows, sample)
            total[sample] += float(self.nats(model, batch).sum())
        each = self.summed({"nats": total})["nats"] / self._values(split)
        loss = float(each.mean())
        found = {
            f"{split}/loss": loss,
            f"{split}/loss_stderr": float(each.std(ddof=1) / math.sqrt(samples)),
        }
        if self.settings.is_text():
            return found | {f"{split}/bits_per_char": loss / math.log(2)}
        return found | {
            f"{split}/bits_per_dim": loss / math.log(2),
            f"{split}/nats_per_image": loss * self.length,
        }

    def _parts(self, split: str) -> dict[str, Tensor]:
        """The sequences of a split by name, (n, l) each: those of full length, and a text's end."""
        if isinstance(self.source, PixelModelTask):
            return {split: self.source.levels[split]}
        data = self.source.split_tokens(split)
        full = len(data) // self.length * self.length
        parts = {split: data[:full].view(-1, self.length), f"{split} end": data[full:][None]}
        return {name: part for name, part in parts.items() if part.numel()}

    def shown(self, split: str) -> Tensor:
        """The sequences of a split (n, l) that people may look at: all of full length."""
        return self._parts(split)[split]

    def half_hidden(self, split: str, index: int) -> DiffusionBatch:
        """Sequence `index` of `shown`, half of it hidden: inputs and targets of one row."""
        return self._with_noise(split, split, np.array([index]), masking.half(index, self.length))

    def _values(self, split: str) -> int:
        """Values of a split."""
        return sum(part.numel() for part in self._parts(split).values())

    def _measured(self, split: str) -> list[tuple[int, str, np.ndarray]]:
        """The batches of a measurement: number of the sample, part, numbers of its sequences."""
        size = self.settings.eval_batch_size
        return [
            (sample, name, np.arange(start, min(start + size, len(part))))
            for sample in range(self.settings.eval_samples)
            for name, part in self._parts(split).items()
            for start in range(0, len(part), size)
        ]

    def _noisy(self, split: str, name: str, rows: np.ndarray, sample: int) -> DiffusionBatch:
        """Sequences of a part of a split, with the noise of a sample."""
        total, length = self._parts(split)[name].shape
        noise = masking.for_measuring(rows, total=total, length=length, sample=sample, name=name)
        return self._with_noise(split, name, rows, noise)

    def _with_noise(
        self, split: str, name: str, rows: np.ndarray, hidden: np.ndarray
    ) -> DiffusionBatch:
        """Sequences of a part of a split with some of their values hidden."""
        if isinstance(self.source, PixelModelTask):
            return self._hidden(self.source.inputs(split, rows), hidden)
        part = self._parts(split)[name]
        targets = part[torch.from_numpy(rows).to(part.device)].long()
        return self._hidden((targets, targets), hidden)


def _masked(source: PixelModelTask | ShakespeareTask, found: ModelSpec | None = None) -> ModelSpec:
    """The shape of a source's data with the mask, and of pictures with all values to be read."""
    found = found or source.spec
    more = isinstance(source, PixelModelTask)  # the first token comes on top, none is left out
    return ModelSpec(found.vocab_size + 1, found.seq_len + more, masked=True)
