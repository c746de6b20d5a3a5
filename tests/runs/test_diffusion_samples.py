"""What a run of `task=diffusion` makes as it trains: it can be stopped, and broken weights pass."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mambalab.generation.sampling import Sampling
from mambalab.models.heads import Denoiser
from mambalab.records.run_folder import RunFolder
from mambalab.runs.diffusion_model import LoadedDenoiser
from mambalab.runs.diffusion_samples import sample_of
from mambalab.settings.train import Precision
from mambalab.spec import ModelSpec
from mambalab.tasks import pixels
from mambalab.tasks.diffusion import DiffusionTask
from mambalab.tasks.text import ShakespeareTask
from mambalab.train.progress import StoppedError
from tests.conftest import NO_DROPOUT
from tests.lab import TEXT
from tests.tasks.chains import SETTINGS
from tests.tasks.toys import Grey, build


@pytest.fixture(params=["digits", "text"])
def sample(request, build_settings, monkeypatch, tmp_path):
    """A function from a signal, or none, to the callback of a random model; `sent` is its files."""
    monkeypatch.setitem(pixels._KNOWN, "digits", Grey)
    monkeypatch.setattr(ShakespeareTask, "read", lambda self: (TEXT[:900], {"sha256": "0"}))
    seq_len = 12 if request.param == "text" else None
    task = build(DiffusionTask, SETTINGS, data=request.param, seq_len=seq_len)
    torch.manual_seed(0)
    settings = build_settings(pattern="A", n_layer=1, d_model=8)
    model = Denoiser(settings, NO_DROPOUT, task.spec).train()

    def make(signal=None):
        sent = []
        made = sample_of(
            model,
            task,
            length=9,
            seed=3,
            device=torch.device("cpu"),
            precision=Precision.fp32,
            folder=RunFolder(tmp_path),
            recorder=SimpleNamespace(artifact=sent.append),
            stop_requested=lambda: signal,
        )
        return made, sent

    return make


def test_a_sample_is_the_same_again_and_training_goes_on(sample):
    contents = []
    for step in (1, 2):
        made, sent = sample()
        made.on_evaluated(step, {})
        contents.append(sent[0].read_bytes())
        assert made.model.training
    assert contents[0] == contents[1]
    if sent[0].suffix == ".txt":
        assert len(contents[0].decode()) == 9 + 1


def test_a_short_text_is_read_as_long_as_those_of_the_training(build_settings):
    torch.manual_seed(0)
    spec = ModelSpec(vocab_size=6, seq_len=12, masked=True)
    model = Denoiser(build_settings(pattern="A", n_layer=1, d_model=8), NO_DROPOUT, spec).eval()
    text: Any = None
    writer = LoadedDenoiser(model, spec, text, torch.device("cpu"), Precision.fp32, "a model")
    short = torch.tensor([[3, 5, 0, 5, 1, 5, 2]])
    whole = torch.cat((short, torch.full((1, 5), 5)), dim=1)
    with torch.no_grad():
        assert torch.equal(writer._read(short), model(whole)[:, :7])
        assert not torch.allclose(model(whole)[:, :7], model(short), atol=1e-3)
    for sequences in (short, whole):
        writer.plan(None, int((sequences == 5).sum()))
        filled = writer.fill(sequences, rules=Sampling(allowed=5), seed=1).tokens
        assert filled.shape == sequences.shape
        assert filled.max() < 5
        assert torch.equal(filled[:, :7:2], short[:, ::2])


def test_a_signal_ends_it_and_no_numbers_are_no_sample(sample, caplog):
    made, sent = sample("SIGTERM")
    with pytest.raises(StoppedError):
        made.on_evaluated(1, {})
    assert made.model.training
    made, sent = sample()
    with torch.no_grad():
        made.model.lm_head.weight.fill_(float("nan"))
    made.on_evaluated(1, {})
    assert not sent
    assert "no sample at step 1: the model's output is not finite" in caplog.text
