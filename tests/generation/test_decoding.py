"""Generation: parity with the full forward, batches of unequal prompts, windows of attention."""

import pytest
import torch

from mambalab.generation import decoding as generation
from mambalab.generation.decoding import generate
from mambalab.generation.sampling import Sampling
from mambalab.models.attention import rotary_angles

GREEDY = Sampling(temperature=0)


def draw(model, prompts, n, rules=GREEDY, seed=0):
    return torch.stack(list(generate(model, prompts, max_new_tokens=n, rules=rules, seed=seed)), 1)


@pytest.mark.parametrize("pattern", ["M", "A", "MA", "SF", "MMSF"])
def test_greedy_equals_rereading_everything(build_model, tokens, pattern):
    model = build_model(pattern=pattern)
    new = draw(model, tokens[:, :5], 12)
    context = tokens[:, :5]
    for _ in range(12):
        context = torch.cat((context, model(context)[:, -1:].argmax(-1)), 1)
    assert torch.equal(new, context[:, 5:])


def test_attention_goes_on_beyond_its_window(build_model, tokens):
    model = build_model(pattern="A")
    new = draw(model, tokens[:, :20], 60)
    assert new.shape == (2, 60)
    # 4 tokens fill the window of 24; then the latest 12 are read again
    context = torch.cat((tokens[:, :20], new[:, :5]), 1)
    assert torch.equal(model(context[:, -12:])[:, -1].argmax(-1), new[:, 5])


def test_a_prompt_longer_than_the_window_is_cut_for_attention_only(build_model, tokens):
    long = torch.cat((tokens, tokens), 1)
    attention, mamba = build_model(pattern="A"), build_model(pattern="M")
    assert torch.equal(draw(attention, long, 1)[:, 0], attention(long[:, -24:])[:, -1].argmax(-1))
    assert torch.equal(draw(mamba, long, 1)[:, 0], mamba(long)[:, -1].argmax(-1))


@pytest.mark.parametrize("pattern", ["M", "A", "MA", "SF", "MMSF"])
@pytest.mark.parametrize("lengths", [(1, 7, 3, 7), (24, 2, 30, 24), (5, 5, 5)])
def test_unequal_prompts_give_what_each_gives_alone(build_model, pattern, lengths):
    model = build_model(pattern=pattern)
    torch.manual_seed(3)
    prompts = [torch.randint(0, 11, (n,)) for n in lengths]
    rules = Sampling(temperature=0.9, top_k=7, repetition_penalty=1.3)
    together = draw(model, prompts, 40, rules, seed=5)
    for b, prompt in enumerate(prompts):
        assert torch.equal(together[b], draw(model, [prompt], 40, rules, seed=5 + b)[0])


@pytest.mark.parametrize(
    ("pattern", "with_fused"),
    [(p, w) for p in ("M", "A", "SF") for w in (True, False)] + [("MA", True), ("MMSF", True)],
)
def test_logits_of_unequal_prompts_are_those_of_single_ones(
    build_model, monkeypatch, pattern, with_fused
):
    model = build_model(pattern=pattern)
    prompts = [torch.arange(n) % 11 for n in (1, 9, 4)]
    alike = []

    def logits(batch):
        found = []

        def recorded(step):
            return lambda *args: found.append(step(*args)) or found[-1]

        with monkeypatch.context() as patch:
            if not with_fused:
                patch.setattr(generation, "fused", lambda *_: None)
            make = generation.stepper
            patch.setattr(generation, "stepper", lambda *args: recorded(make(*args)))
            draw(model, batch, 6)
        return found

    steps = logits(prompts)
    assert len(steps) == 5
    for b, prompt in enumerate(prompts):
        for step, alone in zip(steps, logits([prompt]), strict=True):
            torch.testing.assert_close(step[b], alone[0], atol=1e-5, rtol=0)
            alike.append(b)
    assert len(alike) == 15


def test_the_seed_decides_the_text(build_model, tokens):
    model = build_model()
    texts = [draw(model, tokens, 30, Sampling(), seed) for seed in (1, 1, 5)]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_angles_of_several_places_are_those_of_each():
    places = torch.tensor([0, 3, 17]).view(-1, 1, 1, 1, 1)
    cpu = torch.device("cpu")
    cos, sin = rotary_angles(places, 2, 8, 1e4, cpu)
    for b, start in enumerate((0, 3, 17)):
        one_cos, one_sin = rotary_angles(start, 2, 8, 1e4, cpu)
        assert torch.equal(cos[b], one_cos)
        assert torch.equal(sin[b], one_sin)
