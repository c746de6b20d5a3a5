"""Sampling of the next token from logits: the rules that narrow the choice, and the draw."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mambalab.errors import UserError


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
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    allowed: int | None = None


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
        scores = logits.detach().float().cpu()
        if rules.allowed is not None and rules.allowed < scores.shape[-1]:
            scores = scores[:, : rules.allowed]
        if not (largest := scores.amax(-1)).isfinite().all():
            what = "NaN" if largest.isnan().any() else "Inf"
            raise NonFiniteLogitsError(
                f"the model's output is not finite ({what}), so no token can be chosen: it is the "
                "weights, or precision=bf16, and none of the sampling options"
            )
        if self._seen is not None:
            scores = penalised(scores, self._seen[:, : scores.shape[-1]], rules.repetition_penalty)
        if rules.temperature == 0:
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


def penalised(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Lower the logits (b, v) of tokens that occurred, `seen` (b, v) bool (arXiv 1909.05858)."""
    lowered = torch.where(scores > 0, scores / penalty, scores * penalty)
    return torch.where(seen, lowered, scores)


def probabilities(scores: Tensor, rules: Sampling) -> Tensor:
    """Convert logits (b, v) float32 to probabilities after temperature, top_k, top_p and min_p."""
    # A temperature near 0 must not overflow: what is drawn depends on differences only.
    scores = (scores - scores.amax(-1, keepdim=True)) / rules.temperature
    if rules.top_k is not None and rules.top_k < scores.shape[-1]:
        smallest = scores.topk(rules.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < smallest, float("-inf"))
    found = scores.softmax(-1)
    if rules.top_p is not None and rules.top_p < 1:
        ordered, order = found.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= rules.top_p, 0.0)
        found = torch.zeros_like(found).scatter_(-1, order, ordered)
    if rules.min_p is not None:
        found = found.masked_fill(found < rules.min_p * found.amax(-1, keepdim=True), 0.0)
    return found
