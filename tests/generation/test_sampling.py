"""Rules of sampling against the distributions that their definitions give."""

import math

import pytest
import torch

from mambalab.generation.sampling import (
    NonFiniteLogitsError,
    Sampler,
    Sampling,
    penalised,
    probabilities,
)

P = torch.tensor([[0.5, 0.3, 0.15, 0.05]])


def shares(n=4000, logits=None, prompt=(0,), **rules):
    """How often each token is drawn."""
    logits = P.log() if logits is None else logits
    drawn = torch.cat(
        [
            Sampler(Sampling(**rules), [torch.tensor(prompt)], logits.shape[-1], seed)(logits)
            for seed in range(n)
        ]
    )
    return torch.bincount(drawn, minlength=logits.shape[-1]).double() / n


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5}, [0.6849, 0.2466, 0.0616, 0.0068]),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.7}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"min_p": 0.5}, [0.625, 0.375, 0, 0]),
        ({"min_p": 0.09}, [0.5, 0.3, 0.15, 0.05]),
        ({"allowed": 2}, [0.625, 0.375, 0, 0]),
        ({"top_k": 100, "top_p": 1.0, "min_p": 0.0}, [0.5, 0.3, 0.15, 0.05]),
    ],
)
def test_what_rules_leave(rules, expected):
    expected = torch.tensor(expected).double()
    allowed = rules.get("allowed", 4)
    exact = torch.zeros(4).double()
    exact[:allowed] = probabilities(P.log()[:, :allowed], Sampling(**rules))[0]
    torch.testing.assert_close(exact / exact.sum(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(shares(**rules), expected, atol=0.03, rtol=0)


def test_greedy_and_temperatures_near_zero():
    assert shares(10, temperature=0)[0] == 1
    assert shares(10, temperature=1e-30)[0] == 1
    assert shares(10, logits=torch.tensor([[1e4, -1e4, 0.0]]), temperature=1e-3)[0] == 1


def test_padding_is_never_chosen():
    logits = torch.tensor([[0.0, 1.0, 99.0]])
    assert Sampler(Sampling(temperature=0, allowed=2), [torch.tensor([0])], 3, 0)(logits) == 1


def test_the_repetition_penalty_counts_prompt_and_text():
    scores = torch.tensor([[2.0, -2.0, 1.0]])
    seen = torch.tensor([[True, True, False]])
    assert penalised(scores, seen, 2.0).tolist() == [[1.0, -4.0, 1.0]]
    choose = Sampler(
        Sampling(temperature=0, repetition_penalty=3.0),
        [torch.tensor([0]), torch.tensor([2])],
        3,
        0,
    )
    logits = torch.tensor([[2.0, 1.5, 1.0], [2.0, 1.5, 1.0]])
    assert choose(logits).tolist() == [1, 0]
    assert choose(logits).tolist() == [2, 1]


def test_a_sequence_draws_the_same_wherever_it_stands():
    torch.manual_seed(0)
    logits = torch.randn(3, 50)
    together = Sampler(Sampling(), [torch.tensor([0])] * 3, 50, 7)(logits)
    for b in range(3):
        alone = Sampler(Sampling(), [torch.tensor([0])], 50, 7 + b)(logits[b : b + 1])
        assert alone == together[b]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "rules", [{}, {"temperature": 0}, {"top_k": 2, "top_p": 0.5, "min_p": 0.1}]
)
def test_output_that_is_no_number_is_an_error_of_ours(rules, value):
    prompts = [torch.tensor([0])] * 2
    logits = torch.zeros(2, 4)
    logits[1, 2] = value
    with pytest.raises(NonFiniteLogitsError, match="the model's output is not finite"):
        Sampler(Sampling(**rules), prompts, 4, 0)(logits)
    padding = Sampling(**rules, allowed=2)  # never looked at
    assert (Sampler(padding, prompts, 4, 0)(logits) < 2).all()


def test_minus_infinity_is_a_token_that_cannot_come():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])
    for rules in (Sampling(), Sampling(temperature=0), Sampling(top_p=0.5, min_p=0.5)):
        assert Sampler(rules, [torch.tensor([0])], 3, 0)(logits) == 1
    with pytest.raises(NonFiniteLogitsError):
        Sampler(Sampling(), [torch.tensor([0])], 3, 0)(torch.full((1, 3), -math.inf))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"temperature": 1e-46}, [1, 0, 0, 0]),
        ({"temperature": 5e-324, "top_p": 5e-324, "min_p": 5e-324}, [1, 0, 0, 0]),
        ({"temperature": 1e308}, [0.25] * 4),
        ({"top_p": 1e-46}, [1, 0, 0, 0]),
        ({"min_p": 1e-300}, [0.5, 0.3, 0.15, 0.05]),
        ({"repetition_penalty": 1e-46}, [1, 0, 0, 0]),  # token 0, of the prompt, has ~0 now
        ({"repetition_penalty": 1e308}, [0, 0.6, 0.3, 0.1]),
    ],
)
def test_rules_at_the_ends_of_their_ranges(rules, expected):
    logits = P.log() - 100.0
    torch.testing.assert_close(
        shares(400, logits=logits, **rules), torch.tensor(expected).double(), atol=0.1, rtol=0
    )


@pytest.mark.parametrize("penalty", [5e-324, 1e-46, 1e-45, 1e-30, 1e30, 1e46, 1e308])
def test_any_penalty_leaves_numbers(penalty):
    scores = torch.tensor([[3e38, -3e38, 0.0, 1.0, -1.0, -math.inf, 1e-40]])
    found = penalised(scores, torch.ones_like(scores, dtype=torch.bool), penalty)
    assert found.isneginf().tolist() == scores.isneginf().tolist()
    assert not found.isnan().any()
    assert (found[scores == 0] == 0).all()
    rules = Sampling(temperature=1e-30, repetition_penalty=penalty)
    Sampler(rules, [torch.arange(7)], 7, 0)(scores)


@pytest.mark.parametrize(
    "rules",
    [
        *({"temperature": t} for t in (-1.0, -1e-46, math.nan, math.inf)),
        *({"top_k": k} for k in (0, -1)),
        *({"top_p": p} for p in (0.0, -0.1, 1.1, math.nan)),
        *({"min_p": p} for p in (-0.1, 1.1, math.nan)),
        *({"repetition_penalty": p} for p in (0.0, -1.0, math.nan, math.inf)),
        {"allowed": 0},
    ],
    ids=str,
)
def test_rules_outside_their_ranges(rules):
    (name,) = rules
    with pytest.raises(ValueError, match=f"{name}=.*: must be "):
        Sampling(**rules)
