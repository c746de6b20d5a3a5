"""Generation: parity with the full forward, sampling rules, windows of attention."""

import pytest
import torch

from mambalab.generate import generate, sample


def draw(model, prompt, **options):
    return torch.stack(list(generate(model, prompt, **{"temperature": 1.0, **options})), 1)


@pytest.mark.parametrize("pattern", ["M", "A", "MA"])
def test_greedy_equals_rereading_everything(build_model, tokens, pattern):
    model = build_model(pattern=pattern)
    new = draw(model, tokens[:, :5], max_new_tokens=12, temperature=0)
    context = tokens[:, :5]
    for _ in range(12):
        context = torch.cat((context, model(context)[:, -1:].argmax(-1)), 1)
    assert torch.equal(new, context[:, 5:])


def test_attention_goes_on_beyond_its_window(build_model, tokens):
    model = build_model(pattern="A")
    new = draw(model, tokens[:, :20], max_new_tokens=60, temperature=0)
    assert new.shape == (2, 60)
    # 4 tokens fill the window of 24; then the latest 12 are read again
    context = torch.cat((tokens[:, :20], new[:, :5]), 1)
    assert torch.equal(model(context[:, -12:])[:, -1].argmax(-1), new[:, 5])


def test_a_prompt_longer_than_the_window_is_cut_for_attention_only(build_model, tokens):
    long = torch.cat((tokens, tokens), 1)
    attention, mamba = build_model(pattern="A"), build_model(pattern="M")
    first = draw(attention, long, max_new_tokens=1, temperature=0)[:, 0]
    assert torch.equal(first, attention(long[:, -24:])[:, -1].argmax(-1))
    first = draw(mamba, long, max_new_tokens=1, temperature=0)[:, 0]
    assert torch.equal(first, mamba(long)[:, -1].argmax(-1))


def test_the_seed_decides_the_text(build_model, tokens):
    model = build_model()
    texts = [draw(model, tokens, max_new_tokens=30, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def counts(logits, n=4000, **options):
    options = {"temperature": 1.0, "top_k": None, "top_p": None, **options}
    generator = torch.Generator().manual_seed(0)
    drawn = sample(logits.expand(n, -1), generator=generator, **options)
    return torch.bincount(drawn, minlength=logits.shape[-1]).double() / n


def test_sampling_follows_the_distribution():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    logits = probabilities.log()
    torch.testing.assert_close(counts(logits), probabilities[0].double(), atol=0.03, rtol=0)
    sharp = (logits / 0.5).softmax(-1)[0].double()
    torch.testing.assert_close(counts(logits, temperature=0.5), sharp, atol=0.03, rtol=0)
    top = torch.tensor([0.625, 0.375, 0, 0]).double()
    torch.testing.assert_close(counts(logits, top_k=2), top, atol=0.03, rtol=0)
    torch.testing.assert_close(counts(logits, top_p=0.7), top, atol=0.03, rtol=0)
    assert counts(logits, top_p=0.01).tolist() == [1, 0, 0, 0]
    assert counts(logits, temperature=0).tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(
        counts(logits, top_k=100, top_p=1.0), probabilities[0].double(), atol=0.03, rtol=0
    )
