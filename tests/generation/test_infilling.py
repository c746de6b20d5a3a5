"""Filling gaps: what is given stays, nothing stays open, and the right distribution comes out."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from mambalab.generation.infilling import fill
from mambalab.generation.sampling import NonFiniteLogitsError, Sampling
from mambalab.settings.generate import Order
from tests.tasks.chains import FIRST, LEVELS, MASK, Chain, Exact

RULES = Sampling(allowed=LEVELS)
COMMON = {"mask": MASK, "rules": RULES, "seed": 1, "batch": 1000}


def gaps(count: int, length: int) -> torch.Tensor:
    """Sequences of which nothing but the first token is known."""
    return torch.cat((torch.full((count, 1), FIRST), torch.full((count, length), MASK)), dim=1)


def misfit(found: torch.Tensor, p: torch.Tensor, sequences: torch.Tensor) -> float:
    """The p-value of a chi-squared test; kinds that are expected less than five times are one."""
    powers = LEVELS ** torch.arange(sequences.shape[1] - 1, -1, -1)
    seen = np.bincount((found * powers).sum(1), minlength=len(p))
    expected = (p / p.sum() * len(found)).numpy()
    assert not seen[expected == 0].any()
    rare = expected < 5
    seen, expected = (
        np.append(each[~rare], each[rare].sum()) if expected[rare].sum() else each[~rare]
        for each in (seen, expected)
    )
    return chisquare(seen, expected).pvalue


def test_one_position_a_step_draws_from_the_distribution():
    chain = Chain(4)
    model, start = Exact(chain), gaps(3000, 4)
    found = fill(model, start, steps=4, **COMMON)
    assert found.steps == 4
    assert misfit(found.tokens[:, 1:], chain.p, chain.sequences) > 0.01
    at_once = fill(model, start, steps=1, **COMMON)
    assert misfit(at_once.tokens[:, 1:], chain.p, chain.sequences) < 1e-9


def test_a_given_part_conditions_the_rest():
    chain = Chain(4)
    start = gaps(2000, 4)
    start[:, 2], start[:, 4] = 1, 0
    found = fill(Exact(chain), start, steps=99, **COMMON)
    assert found.steps == 2
    assert set(found.tokens[:, 2].tolist()) == {1}
    assert set(found.tokens[:, 4].tolist()) == {0}
    fits = (chain.sequences[:, 1] == 1) & (chain.sequences[:, 3] == 0)
    assert misfit(found.tokens[:, 1:], chain.p * fits, chain.sequences) > 0.01


@pytest.fixture(scope="module")
def exact():
    """A chain of five steps, and the model that is exact on it."""
    chain = Chain(5)
    return chain, Exact(chain)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_what_is_given_stays_and_every_gap_is_filled(exact, order, steps):
    chain, model = exact
    generator = torch.Generator().manual_seed(0)
    start = torch.cat((torch.full((6, 1), FIRST), chain.draw(6, seed=3).long()), dim=1)
    open_ones = torch.rand(start.shape, generator=generator) < 0.6
    open_ones[:, 0], open_ones[0], open_ones[1] = False, False, True
    open_ones[1, 0] = False
    start[open_ones] = MASK
    kept = start.clone()
    found = fill(model, start, steps=steps, order=order, stages=4, **COMMON)
    assert torch.equal(start, kept)
    assert torch.equal(found.tokens[~open_ones], start[~open_ones])
    assert int(found.tokens[:, 1:].max()) < LEVELS
    assert found.steps == min(steps, 5)
    assert torch.equal(found.stages[0], start)
    assert torch.equal(found.stages[-1], found.tokens)
    assert (found.at[0], found.at[-1]) == (0, found.steps)
    for before, after in zip(found.stages, found.stages[1:], strict=False):
        assert ((after == MASK) <= (before == MASK)).all()
        assert torch.equal(after[before != MASK], before[before != MASK])
    for row in range(6):  # alone, with a seed of its own, each is the same
        seed = {"seed": 1 + row}
        alone = fill(model, start[row : row + 1], steps=steps, order=order, **COMMON | seed)
        assert torch.equal(alone.tokens[0], found.tokens[row])


def test_batches_change_nothing():
    chain = Chain(4)
    whole = fill(Exact(chain), gaps(7, 4), steps=3, stages=2, **COMMON)
    parts = fill(Exact(chain), gaps(7, 4), steps=3, stages=2, **COMMON | {"batch": 3})
    assert torch.equal(whole.tokens, parts.tokens)
    assert torch.equal(whole.stages, parts.stages)
    for shown in (1, 3, 5, 99):  # less than a part, a part, more, more than there are
        few = fill(
            Exact(chain), gaps(7, 4), steps=3, stages=2, shown=shown, **COMMON | {"batch": 3}
        )
        assert torch.equal(few.tokens, whole.tokens)
        assert torch.equal(few.stages, whole.stages[:, :shown])


class Sure(nn.Module):
    """Surer of later positions; always of level 2."""

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, MASK + 1)
        logits[..., 2] = 3 + torch.arange(tokens.shape[1]).float()
        logits[..., MASK] = 99
        return logits


def test_the_surest_come_first():
    found = fill(Sure(), gaps(1, 5), steps=5, order=Order.confidence, stages=6, **COMMON)
    assert found.stages[:, 0, 1:].tolist() == [
        5 * [MASK],
        [*4 * [MASK], 2],
        [*3 * [MASK], 2, 2],
        [*2 * [MASK], 2, 2, 2],
        [MASK, 2, 2, 2, 2],
        5 * [2],
    ]


def test_temperature_0_takes_the_likeliest():
    rules = Sampling(temperature=0, allowed=LEVELS)
    found = [
        fill(Exact(Chain(4)), gaps(2, 4), steps=4, order=Order.confidence, **COMMON | change)
        for change in ({"rules": rules}, {"rules": rules, "seed": 9})
    ]
    assert torch.equal(found[0].tokens, found[1].tokens)
    assert found[0].tokens[0].tolist() == [FIRST, 0, 0, 0, 0]


def test_numbers_that_are_none_are_told():
    class Broken(nn.Module):
        def forward(self, tokens):
            return torch.full((*tokens.shape, MASK + 1), float("nan"))

    with pytest.raises(NonFiniteLogitsError, match="not finite"):
        fill(Broken(), gaps(1, 2), steps=1, **COMMON)
