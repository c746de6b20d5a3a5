"""Sampling of the next token from logits: the rules that narrow the choice, and the draw."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mambalab.errors import UserError

_FLOAT32 = torch.finfo(torch.float32)


class NonFiniteLogitsError(UserError):
    """A model's output is no distribution to choose from: NaN, or Inf where it is largest."""


@dataclass(frozen=True)
class Sampling:
    """Rules by which the next token is chosen.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only the k likeliest tokens stay; None for all.
        top_p: only the smallest set of likeliest tokens whose probability reaches top_p stays
            (arXiv 1904.09751); None for all.
        min_p: only tokens at least min_p times as likely as the likeliest stay (arXiv 2407.01082);
            None for all.
        repetition_penalty: logits of tokens that occurred, in the prompt too, are divided by it if
            positive, else multiplied (arXiv 1909.05858, section 4.1); 1 changes nothing.
        allowed: only the first `allowed` tokens of the vocabulary may be chosen (what follows is
            padding); None for all.

    Raises:
        ValueError: a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    allowed: int | None = None

    def __post_init__(self) -> None:
        top_k, top_p, min_p, allowed = self.top_k, self.top_p, self.min_p, self.allowed
        ranges = {
            "temperature": (0 <= self.temperature < math.inf, "a number of at least 0"),
            "top_k": (top_k is None or top_k >= 1, "at least 1, or None"),
            "top_p": (top_p is None or 0 < top_p <= 1, "above 0 and at most 1, or None"),
            "min_p": (min_p is None or 0 <= min_p <= 1, "from 0 to 1, or None"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "a number above 0"),
            "allowed": (allowed is None or allowed >= 1, "at least 1, or None"),
        }
        for name, (right, wanted) in ranges.items():
            if not right:
                raise ValueError(f"{name}={getattr(self, name)}: must be {wanted}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken: also at temperatures that float32 rounds to 0."""
        return self.temperature < _FLOAT32.tiny


class Sampler:
    """Draws tokens for the sequences of a batch, each from a generator of its own.

    Sequence number i gets the tokens that it would get alone with seed `seed + i`, whatever else
    is in the batch.

    Args:
        rules: how to choose.
        prompts: (l_i,) int64 tokens of each sequence; the repetition penalty counts them.
        vocab_size: number of logits.
        seed: of the first sequence.
    """

    def __init__(self, rules: Sampling, prompts: list[Tensor], vocab_size: int, seed: int) -> None:
        self.rules = rules
        self._generators = [
            torch.Generator().manual_seed((seed + b) % 2**63) for b in range(len(prompts))
        ]
        self._seen: Tensor | None = None
        if rules.repetition_penalty != 1:
            self._seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
            for row, prompt in zip(self._seen, prompts, strict=True):
                row[prompt.cpu()] = True

    def __call__(self, logits: Tensor) -> Tensor:
        """Draw tokens (b,) int64, given logits (b, v) of any floating dtype, on their device.

        A logit of -inf is a token that cannot come.

        Raises:
            NonFiniteLogitsError: there are others that are no numbers, or every one is -inf.
        """
        rules = self.rules
        scores = usable(logits, rules)
        if self._seen is not None:
            scores = penalised(scores, self._seen[:, : scores.shape[-1]], rules.repetition_penalty)
        if rules.greedy:
            tokens = scores.argmax(-1)
        else:
            weights = probabilities(scores, rules)
            draws = [
                torch.multinomial(row, 1, generator=generator)
                for row, generator in zip(weights, self._generators, strict=True)
            ]
            tokens = torch.cat(draws)
        if self._seen is not None:
            self._seen[torch.arange(len(tokens)), tokens] = True
        return tokens.to(logits.device)


def usable(logits: Tensor, rules: Sampling) -> Tensor:
    """Logits (..., v) of any floating dtype as float32 on the CPU, of `rules.allowed` tokens.

    Raises:
        NonFiniteLogitsError: there are some that are no numbers, or every one is -inf.
    """
    scores = logits.detach().float().cpu()
    if rules.allowed is not None and rules.allowed < scores.shape[-1]:
        scores = scores[..., : rules.allowed]
    if not (largest := scores.amax(-1)).isfinite().all():
        what = "NaN" if largest.isnan().any() else "Inf"
        raise NonFiniteLogitsError(
            f"the model's output is not finite ({what}), so no token can be chosen: it is the "
            "weights, or precision=bf16, and none of the sampling options"
        )
    return scores


def penalised(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Lower the logits (b, v) of tokens that occurred, `seen` (b, v) bool (arXiv 1909.05858).

    They stay within what float32 holds, whatever the penalty; -inf stays what it is.
    """
    penalty = min(max(penalty, _FLOAT32.tiny), 1 / _FLOAT32.tiny)
    lowered = torch.where(scores > 0, scores / penalty, scores * penalty)
    lowered = lowered.clamp(_FLOAT32.min, _FLOAT32.max)
    return torch.where(seen & ~scores.isneginf(), lowered, scores)


def probabilities(scores: Tensor, rules: Sampling) -> Tensor:
    """Convert logits (b, v) float32 to probabilities after temperature, top_k, top_p and min_p.

    Args:
        scores: the logits; the largest of each row is finite.
        rules: that are not `greedy`.
    """
    # A temperature near 0 must not overflow: what is drawn depends on differences only.
    scores = (scores - scores.amax(-1, keepdim=True)) / min(rules.temperature, _FLOAT32.max)
    if rules.top_k is not None and rules.top_k < scores.shape[-1]:
        smallest = scores.topk(rules.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < smallest, float("-inf"))
    found = scores.softmax(-1)
    if rules.top_p is not None and rules.top_p < 1:
        ordered, order = found.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        left_out = before >= rules.top_p
        left_out[..., 0] = False  # the likeliest stays, however small top_p
        ordered = ordered.masked_fill(left_out, 0.0)
        found = torch.zeros_like(found).scatter_(-1, order, ordered)
    if rules.min_p is not None:
        found = found.masked_fill(found < rules.min_p * found.amax(-1, keepdim=True), 0.0)
    return found
