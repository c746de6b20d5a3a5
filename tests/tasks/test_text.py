import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mambalab.errors import UserError
from mambalab.settings.task import Windows
from mambalab.tasks.text import ShakespeareTask, TextTask, _smallest_dtype
from mambalab.tokenization.vocabulary import Vocabulary

TEXT = "The quick brown fox jumps over the lazy dog; the dog sleeps on.\n" * 4  # 256 characters


class Bigram(nn.Module):
    """Logits of the next character from the present one alone: its loss has a closed form."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(vocab_size, vocab_size, generator=generator))

    def initial_state(self, batch_size: int, max_len: int) -> dict[str, torch.Tensor]:
        self.max_len = max_len
        return {"total": torch.zeros(batch_size, dtype=torch.int64)}

    def forward(self, tokens, state=None):
        return self.table[tokens]


class Sum(Bigram):
    """Logits from the sum of all characters so far: only a carried state gets them right."""

    def forward(self, tokens, state=None):
        total = tokens.cumsum(1)
        if state is not None:
            total = total + state["total"][:, None]
            state["total"] = total[:, -1]
        return self.table[total % len(self.table)]


def nats(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean -log softmax(logits)[target] in float64, by the definition."""
    logits = logits.detach().double()
    chosen = logits[torch.arange(len(targets)), targets]
    return float((logits.exp().sum(1).log() - chosen).mean())


@pytest.fixture
def make(settings, tmp_path):
    """A function from a text and changed settings to a prepared TextTask on it."""

    def build(text: str = TEXT, seed: int = 0, data_fraction: float = 1.0, **changes) -> TextTask:
        path = tmp_path / "text.txt"
        path.write_text(text, encoding="utf-8")
        chosen = settings(path=str(path), **changes)
        task = TextTask(chosen, seed=seed, data_dir=tmp_path, data_fraction=data_fraction)
        task.prepare()
        return task

    return build


def ids(task: TextTask, text: str) -> torch.Tensor:
    return torch.from_numpy(task.tokenizer.vocabulary.encode(text))


def test_the_first_part_trains_and_the_rest_validates(make):
    task = make()
    assert task.tokenizer.vocabulary.decode(task._data["train"]) == TEXT[:192]
    assert task.tokenizer.vocabulary.decode(task._data["val"]) == TEXT[192:]
    assert task.tokenizer.vocabulary.decode(task._data["train_sample"]) == TEXT[:64]
    assert task.spec.vocab_size == len(set(TEXT))
    assert task.spec.seq_len == 8
    assert task.items_per_batch == task.units_per_batch == 32
    assert task.describe_data() == (
        f"text, vocabulary of {len(set(TEXT))}; characters: 192 train, 64 val"
    )


def test_fixed_windows_lie_side_by_side_and_come_once_an_epoch(make):
    content = "".join(chr(0x4E00 + n) for n in range(100))  # 75 characters train: 9 windows
    task = make(content, seed=4, windows=Windows.fixed, batch_size=3)
    begins = [task.batch(k)[0][:, 0].tolist() for k in range(6)]
    first, second = ([n for batch in half for n in batch] for half in (begins[:3], begins[3:]))
    assert sorted(first) == sorted(second) == list(range(0, 72, 8))
    assert first != second
    for inputs, targets in map(task.batch, (5, 0)):
        assert torch.equal(
            inputs[:, 0, None] + torch.arange(9), torch.cat((inputs, targets[:, -1:]), 1)
        )
    again = make(content, seed=4, windows=Windows.fixed, batch_size=3)
    assert again.batch(5)[0][:, 0].tolist() == begins[5]
    assert (
        make(content, seed=5, windows=Windows.fixed, batch_size=3).batch(0)[0][:, 0].tolist()
        != (begins[0])
    )
    random = {n for k in range(9) for n in make(content).batch(k)[0][:, 0].tolist()}
    assert {n % 8 for n in random} != {0}


def test_data_fraction_keeps_the_first_share_of_the_training_part_only(make):
    task = make(data_fraction=0.25)
    assert task.tokenizer.vocabulary.decode(task._data["train"]) == TEXT[:48]
    assert task.tokenizer.vocabulary.decode(task._data["val"]) == TEXT[192:]
    assert task.spec.vocab_size == len(set(TEXT))


def test_batches_are_pure_functions_of_seed_and_position(make):
    task = make()
    forwards = [task.batch(k) for k in range(5)]
    other = make()
    for k in reversed(range(5)):
        inputs, targets = other.batch(k)
        assert torch.equal(inputs, forwards[k][0])
        assert torch.equal(targets, forwards[k][1])
    assert not torch.equal(make(seed=1).batch(0)[0], forwards[0][0])
    assert not torch.equal(forwards[1][0], forwards[0][0])


def test_a_batch_is_windows_of_the_training_part(make):
    task = make(text="".join(map(chr, range(200, 456))))  # every character once: places are known
    inputs, targets = task.batch(0)
    assert inputs.shape == targets.shape == (4, 8)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    starts = torch.cat([task.batch(k)[0][:, 0] for k in range(400)])
    assert set(starts.tolist()) == set(range(192 - 8))  # every place, none beyond the part


def test_the_loss_is_the_mean_in_nats_and_in_float32(make):
    task = make()
    model = Bigram(task.spec.vocab_size)
    inputs, targets = task.batch(0)
    loss = task.loss(model.bfloat16(), (inputs, targets))
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    expected = nats(model.table[inputs.flatten()], targets.flatten())
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()


@pytest.mark.parametrize("split", ["train", "val", "train_sample"])
@pytest.mark.parametrize("seq_len", [1, 7, 8, 9, 21, 63])
def test_every_character_but_the_first_is_predicted_once(make, split, seq_len):
    task = make(seq_len=seq_len)
    text = {"train": TEXT[:192], "val": TEXT[192:], "train_sample": TEXT[:64]}[split]
    model = Bigram(task.spec.vocab_size)
    tokens = ids(task, text)
    expected = nats(model.table[tokens[:-1]], tokens[1:])
    metrics = task.evaluate(model, split)
    assert set(metrics) == {f"{split}/loss", f"{split}/bits_per_char"}
    assert metrics[f"{split}/loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics[f"{split}/bits_per_char"] == pytest.approx(expected / math.log(2), rel=1e-6)


def test_a_window_sees_nothing_before_itself(make):
    task = make(seq_len=10)
    model = Sum(task.spec.vocab_size)
    tokens = ids(task, TEXT[192:])
    windows = [(tokens[i : i + 10], tokens[i + 1 : i + 11]) for i in range(0, 63, 10)]
    logits = torch.cat([model(inputs[None, : len(targets)])[0] for inputs, targets in windows])
    expected = nats(logits, tokens[1:])
    assert task.evaluate(model, "val")["val/loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("eval_batch_size", [1, 2, 100])
def test_the_stateful_loss_sees_all_before(make, eval_batch_size):
    task = make(eval_batch_size=eval_batch_size)
    model = Sum(task.spec.vocab_size)
    tokens = ids(task, TEXT[192:])
    metrics = task.evaluate(model, "val", stateful=True)
    expected = nats(model(tokens[None, :-1])[0], tokens[1:])
    assert metrics["val/loss_stateful"] == pytest.approx(expected, rel=1e-6)
    assert metrics["val/loss"] == task.evaluate(model, "val")["val/loss"] != expected
    assert model.max_len == 63
    assert model.training


def test_a_model_without_memory_scores_the_same_stateful_or_not(make):
    task = make()
    metrics = task.evaluate(Bigram(task.spec.vocab_size), "val", stateful=True)
    assert metrics["val/loss_stateful"] == pytest.approx(metrics["val/loss"], rel=1e-6)


def test_a_stateful_score_of_a_model_without_state_is_refused(make):
    task = make()
    with pytest.raises(UserError, match=r"Embedding has none"):
        task.evaluate(nn.Embedding(40, 40), "val", stateful=True)


def test_there_is_no_test_split(make):
    with pytest.raises(UserError, match="no split 'test'; it has: train, val, train_sample"):
        make().evaluate(nn.Embedding(40, 40), "test")


def test_the_shortest_text_that_fits_fits_and_one_less_is_told_how_much(make):
    for options in ({}, {"seq_len": 100}, {"val_fraction": 0.9}, {"data_fraction": 0.1}):
        with pytest.raises(UserError, match=r"needs at least") as error:
            make(text="abc", **options)
        message = str(error.value)
        assert "has 3 characters" in message
        needed = int(message.split("at least ")[1].split()[0].replace(",", ""))
        make(text="x" * needed, **options).batch(0)
        with pytest.raises(UserError, match=f"needs at least {needed} "):
            make(text="x" * (needed - 1), **options)


def test_a_shorter_window_that_would_fit_is_offered(make):
    with pytest.raises(UserError, match=r"or task\.seq_len=9 or less"):
        make(text="x" * 40, seq_len=100)
    make(text="x" * 40, seq_len=9)


def test_too_small_a_share_is_named_as_such(make):
    with pytest.raises(UserError, match=r"use data_fraction=0\.251 or more, or a longer") as error:
        make(text="x" * 400, seq_len=49, val_fraction=0.5, data_fraction=0.01)
    assert "task.seq_len=1" not in str(error.value)
    make(text="x" * 400, seq_len=49, val_fraction=0.5, data_fraction=0.251)
    with pytest.raises(UserError, match=r"data_fraction=0.01\): give a longer text$"):
        make(text="x" * 400, seq_len=300, val_fraction=0.5, data_fraction=0.01)


def test_no_silly_window_is_offered(make):
    for characters, offered in ((36, True), (32, False)):
        with pytest.raises(UserError) as error:
            make(text="x" * characters, seq_len=100, val_fraction=0.25)
        assert ("task.seq_len=8 or less" in str(error.value)) == offered


@pytest.mark.parametrize("change", [{"seq_len": 0}, {"val_fraction": 0.0}, {"val_fraction": 1.0}])
def test_settings_out_of_range_are_refused(make, change):
    with pytest.raises(UserError, match=rf"task\.{next(iter(change))}="):
        make(**change)


def test_large_vocabularies_fit_their_storage(make):
    assert [_smallest_dtype(n) for n in (256, 257, 32768, 32769)] == [
        np.uint8,
        np.int16,
        np.int16,
        np.int32,
    ]
    task = make(text="".join(map(chr, range(0x4E00, 0x4E00 + 1000))))
    inputs, targets = task.batch(0)
    assert inputs.dtype == torch.int64
    assert targets.max() > 255


def test_fingerprint_and_assets_identify_data_and_vocabulary(make):
    task = make()
    fingerprint = task.fingerprint()
    assert Path(fingerprint["path"]).name == "text.txt"
    assert fingerprint["sha256"] != make(text=TEXT[1:]).fingerprint()["sha256"]
    assert (
        Vocabulary.from_json(task.assets()["vocabulary.json"]).symbols
        == task.tokenizer.vocabulary.symbols
    )


def test_without_a_path_the_text_is_the_help_topics(settings, tmp_path):
    task = TextTask(settings(val_fraction=0.1), seed=0, data_dir=tmp_path, data_fraction=1.0)
    task.prepare()
    assert "pydoc_data.topics" in task.fingerprint()["source"]
    assert len(task._data["train"]) + len(task._data["val"]) > 200_000


def test_a_subclass_brings_its_own_text(settings, tmp_path):
    class Count(TextTask):
        def read(self):
            return "0123456789" * 10, {}

    task = Count(settings(), seed=0, data_dir=tmp_path, data_fraction=1.0)
    task.prepare()
    assert task.spec.vocab_size == 10
    assert torch.equal(task.batch(0)[1], (task.batch(0)[0] + 1) % 10)


class TestShakespeare:
    def test_splits_are_nano_gpts(self, settings, shakespeare_dir):
        before = sorted(shakespeare_dir.rglob("*"))
        task = ShakespeareTask(
            settings(name="shakespeare", val_fraction=0.1),
            seed=0,
            data_dir=shakespeare_dir,
            data_fraction=1.0,
        )
        task.prepare()
        assert len(task._data["train"]) == 1_003_854
        assert len(task._data["val"]) == 111_540
        assert task.spec.vocab_size == 65
        assert task.tokenizer.vocabulary.decode(task._data["train"][:14]) == "First Citizen:"
        assert task.tokenizer.vocabulary.decode(task._data["val"][:13]) == "?\n\nGREMIO:\nGo"[:13]
        assert sorted(shakespeare_dir.rglob("*")) == before  # a data folder may be read-only

    def test_a_path_elsewhere_is_accepted(self, settings, shakespeare_dir, tmp_path):
        path = shakespeare_dir / "tinyshakespeare" / "input.txt"
        chosen = settings(name="shakespeare", path=str(path))
        task = ShakespeareTask(chosen, seed=0, data_dir=tmp_path, data_fraction=1.0)
        task.prepare()
        assert task.fingerprint()["path"] == str(path.absolute())

    def test_another_text_is_refused(self, settings, tmp_path):
        (tmp_path / "mine.txt").write_text(TEXT)
        chosen = settings(name="shakespeare", path=str(tmp_path / "mine.txt"))
        task = ShakespeareTask(chosen, seed=0, data_dir=tmp_path, data_fraction=1.0)
        with pytest.raises(UserError, match=r"is not tiny Shakespeare .* task=text task\.path="):
            task.prepare()

    def test_a_corrupted_file_is_refused_and_left_alone(self, settings, tmp_path):
        path = tmp_path / "tinyshakespeare" / "input.txt"
        path.parent.mkdir()
        path.write_text("cut short")
        chosen = settings(name="shakespeare")
        task = ShakespeareTask(chosen, seed=0, data_dir=tmp_path, data_fraction=1.0)
        with pytest.raises(UserError, match="is not the published file") as error:
            task.prepare()
        assert "\n" not in str(error.value)
        assert "mambalab data fetch shakespeare" in str(error.value)
        assert path.read_text() == "cut short"
