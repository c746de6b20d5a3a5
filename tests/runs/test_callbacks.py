"""What training writes beside its numbers."""

from types import SimpleNamespace

import pytest
import torch

from mambalab.generation.decoding import generate
from mambalab.generation.sampling import Sampling
from mambalab.records.run_folder import RunFolder
from mambalab.runs.callbacks import SAMPLE_TEMPERATURE, TextSample, excerpt
from mambalab.settings.train import Precision
from mambalab.tokenization.tokenizer import FileTokenizer
from tests.tokenization.kinds import KINDS


@pytest.fixture
def sample(build_model, tmp_path):
    """A function that makes a callback which samples from a random model, with Metaspace."""
    KINDS["metaspace"]().save(str(tmp_path / "tokenizer.json"))
    task = SimpleNamespace(tokenizer=FileTokenizer(tmp_path / "tokenizer.json"))
    model = build_model(pattern="A", n_layer=1)
    where = {"device": torch.device("cpu"), "precision": Precision.fp32}
    sent = []
    recorder = SimpleNamespace(artifact=sent.append)

    def make(seed=0):
        made = TextSample(
            model,
            task,
            length=6,
            seed=seed,
            folder=RunFolder(tmp_path),
            recorder=recorder,
            stop_requested=lambda: None,
            **where,
        )
        made.sent = sent
        return made

    return make


def test_a_sample_goes_on_from_its_first_token(sample):
    texts = []
    for seed in range(4):
        made = sample(seed)
        made.on_evaluated(7, {})
        texts.append(made.sent[-1].read_text())
        tokenizer = made.task.tokenizer
        start = tokenizer.start_token()
        rules = Sampling(temperature=SAMPLE_TEMPERATURE, allowed=tokenizer.vocab_size)
        made.model.eval()
        steps = generate(
            made.model, [torch.tensor([start])], max_new_tokens=6, rules=rules, seed=seed
        )
        ids = [int(token) for token in steps]
        known = tokenizer.decode([start])
        assert known + texts[-1] == tokenizer.decode([start, *ids]) + "\n"
    assert any(text.startswith(" ") for text in texts)


def test_a_model_that_computes_no_numbers_gives_no_sample(sample, caplog):
    made = sample()
    with torch.no_grad():
        made.model.lm_head.weight.fill_(float("nan"))
    made.model.train()
    made.on_evaluated(7, {})
    assert "no sample at step 7: the model's output is not finite (NaN)" in caplog.text
    assert not made.sent
    assert made.model.training


def test_the_beginning_of_every_third_sample_is_shown(sample, caplog):
    caplog.set_level("INFO", logger="mambalab")
    made = sample()
    for step in range(5):
        made.on_evaluated(step, {})
    told = [record.getMessage() for record in caplog.records]
    assert told == [excerpt(made.sent[0].read_text()), excerpt(made.sent[3].read_text())]


def test_an_excerpt_is_a_few_lines_that_fit():
    text = "\n\none\n\n" + "two " * 30 + "\n\tthree\nfour\n"
    lines = excerpt(text).splitlines()
    assert [lines[0], lines[2]] == ["  | one", "  |         three"]
    assert (len(lines), len(lines[1]), lines[1][-1]) == (3, 76, "…")
    assert max(map(len, excerpt(text, 40).splitlines())) == 40
    assert excerpt("\n") == "  |"
