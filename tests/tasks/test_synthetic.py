import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mambalab.errors import UserError
from mambalab.tasks.synthetic import InductionHeadsTask, SelectiveCopyingTask
from tests.tasks.toys import COPYING, HEADS, build

KINDS = [(SelectiveCopyingTask, COPYING), (InductionHeadsTask, HEADS)]


class CopyOracle(nn.Module):
    """Reads off the data tokens and answers with them, in their order."""

    def __init__(self, copies: int, vocab_size: int) -> None:
        super().__init__()
        self.copies, self.vocab_size = copies, vocab_size

    def forward(self, tokens):
        answers = tokens.clone()
        for row in range(len(tokens)):
            data = [t for t in tokens[row].tolist() if 0 < t < self.vocab_size - 1]
            answers[row, -self.copies :] = torch.tensor(data)
        return 100.0 * F.one_hot(answers, self.vocab_size)


class InductionOracle(nn.Module):
    """Answers each token with what followed it the first time it came."""

    def __init__(self, vocab_size: int, longest: int = 10**9) -> None:
        super().__init__()
        self.vocab_size, self.longest = vocab_size, longest
        self.seen: list[torch.Tensor] = []

    def forward(self, tokens):
        self.seen.append(tokens)
        answers = torch.ones_like(tokens)
        for row in range(len(tokens)):
            text = tokens[row].tolist()
            answers[row, -1] = text[text.index(text[-1]) + 1]
        if tokens.shape[1] > self.longest:  # then it is always wrong
            answers[:, -1] = answers[:, -1] % (self.vocab_size - 1) + 1
        return 100.0 * F.one_hot(answers, self.vocab_size)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
class TestBoth:
    def test_batches_depend_on_seed_and_number_alone(self, kind, settings):
        one, again, other = (build(kind, settings, seed=seed) for seed in (1, 1, 2))
        tokens, answers = one.batch(5)
        one.batch(3)
        for task in (one, again):
            assert all(map(torch.equal, task.batch(5), (tokens, answers)))
        assert not torch.equal(one.batch(6)[0], tokens)
        assert not torch.equal(other.batch(5)[0], tokens)

    def test_shapes_and_types(self, kind, settings):
        task = build(kind, settings)
        tokens, answers = task.batch(0)
        assert tokens.shape == (4, task.spec.seq_len)
        assert tokens.dtype == answers.dtype == torch.int64
        assert task.spec.vocab_size == settings.vocab_size
        assert task.items_per_batch == tokens.numel()
        assert tokens.min() >= 0
        assert tokens.max() < settings.vocab_size

    def test_no_training_sequence_comes_twice(self, kind, settings):
        task = build(kind, settings, seq_len=64)
        every = torch.cat([task.batch(k)[0] for k in range(100)])
        assert len(every.unique(dim=0)) == 400

    def test_evaluation_asks_all_seeds_the_same_new_questions(self, kind, settings):
        class Listener(nn.Module):
            def forward(self, tokens):
                self.heard.append(tokens)
                return torch.zeros(*tokens.shape, settings.vocab_size)

        def questions(seed: int, split: str) -> torch.Tensor:
            model = Listener()
            model.heard = []
            build(kind, settings, seed=seed, seq_len=32).evaluate(model, split)
            return torch.cat([tokens for tokens in model.heard if tokens.shape[1] < 64 + 6])

        val, test = questions(1, "val"), questions(1, "test")
        assert torch.equal(questions(2, "val"), val)
        assert torch.equal(questions(2, "test"), test)
        assert len(val) == settings.eval_sequences  # 10 = 3 + 3 + 3 + 1
        trained = [build(kind, settings, seed=7, seq_len=32).batch(k)[0] for k in range(50)]
        both = torch.cat([val, *trained])
        assert len(both.unique(dim=0)) == len(both)
        if val.shape[1] == test.shape[1]:
            assert not torch.equal(val, test)

    def test_a_model_that_knows_nothing_scores_by_chance(self, kind, settings):
        class Zeros(nn.Module):
            def forward(self, tokens):
                return torch.zeros(*tokens.shape, settings.vocab_size)

        task = build(kind, settings)
        expected = np.log(settings.vocab_size)
        assert task.evaluate(Zeros(), "val")["val/loss"] == pytest.approx(expected)
        assert float(task.loss(Zeros(), task.batch(0))) == pytest.approx(expected)

    def test_there_is_no_training_split_to_score(self, kind, settings):
        with pytest.raises(UserError, match="no split 'train'; it has: val, test"):
            build(kind, settings).evaluate(nn.Identity(), "train")


class TestSelectiveCopying:
    def test_the_answers_are_the_data_tokens_in_their_order(self):
        task = build(SelectiveCopyingTask, COPYING, batch_size=200)
        tokens, answers = task.batch(0)
        assert tokens.shape == (200, 25)
        assert answers.shape == (200, 5)
        for row, expected in zip(tokens.tolist(), answers.tolist(), strict=True):
            assert [t for t in row[:20] if t != 0] == expected
            assert row[20:] == [6] * 5  # the sign to answer, which is nowhere else
            assert 6 not in row[:20]

    def test_every_place_and_every_kind_is_equally_likely(self):
        task = build(SelectiveCopyingTask, COPYING, batch_size=4000)
        tokens, answers = task.batch(0)
        places = (tokens[:, :20] != 0).double().mean(0)
        assert (places - 5 / 20).abs().max() < 0.035
        shares = torch.bincount(answers.flatten(), minlength=7).double() / answers.numel()
        assert shares[0] == shares[6] == 0
        assert (shares[1:6] - 0.2).abs().max() < 0.015

    def test_as_many_tokens_as_places_are_possible_and_more_are_refused(self):
        task = build(SelectiveCopyingTask, COPYING, seq_len=5)
        tokens, answers = task.batch(0)
        assert torch.equal(tokens[:, :5], answers)
        with pytest.raises(UserError, match=r"task\.copies=5: at most task\.seq_len=4"):
            build(SelectiveCopyingTask, COPYING, seq_len=4)

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_a_perfect_model_gets_everything_right(self, split):
        task = build(SelectiveCopyingTask, COPYING)
        metrics = task.evaluate(CopyOracle(5, 7), split)
        assert metrics[f"{split}/accuracy"] == 1.0
        assert metrics[f"{split}/loss"] < 1e-6
        assert float(task.loss(CopyOracle(5, 7), task.batch(0))) < 1e-6

    def test_accuracy_counts_single_answers(self):
        class FirstWrong(CopyOracle):
            def forward(self, tokens):
                logits = super().forward(tokens)
                logits[:, -self.copies] = logits[:, -self.copies].roll(1, -1)
                return logits

        task = build(SelectiveCopyingTask, COPYING)
        assert task.evaluate(FirstWrong(5, 7), "val")["val/accuracy"] == pytest.approx(0.8)


class TestInductionHeads:
    @pytest.mark.parametrize("length", [4, 16, 100])
    def test_the_answer_follows_the_first_special_token(self, length):
        task = build(InductionHeadsTask, HEADS, seq_len=length, batch_size=300)
        tokens, answers = task.batch(0)
        assert tokens.shape == (300, length)
        assert answers.shape == (300, 1)
        for row, (expected,) in zip(tokens.tolist(), answers.tolist(), strict=True):
            assert row.count(0) == 2
            assert row[-1] == 0
            assert row[row.index(0) + 1] == expected != 0
        firsts = (tokens == 0).int().argmax(1)
        assert firsts.min() == 0
        assert firsts.max() <= length - 3

    def test_every_token_is_equally_likely(self):
        task = build(InductionHeadsTask, HEADS, batch_size=4000)
        tokens, answers = task.batch(0)
        for values in (tokens[tokens > 0], answers):
            shares = torch.bincount(values.flatten(), minlength=8).double() / values.numel()
            assert (shares[1:] - 1 / 7).abs().max() < 0.02
        firsts = torch.bincount((tokens == 0).int().argmax(1), minlength=14).double() / 4000
        assert (firsts - 1 / 14).abs().max() < 0.02

    @pytest.mark.parametrize(
        ("longest", "lengths"), [(2, [32]), (8, [32, 64, 128]), (15, [32, 64, 128])]
    )
    def test_the_test_doubles_the_length_up_to_the_longest(self, longest, lengths):
        task = build(InductionHeadsTask, HEADS, longest=longest)
        oracle = InductionOracle(8)
        metrics = task.evaluate(oracle, "test")
        assert task.lengths() == lengths
        assert [key for key in metrics if "accuracy_at" in key] == [
            f"test/accuracy_at/{length}" for length in lengths
        ]
        assert {tokens.shape[1] for tokens in oracle.seen} == set(lengths)
        assert set(metrics.values()) == {1.0, metrics["test/loss"]}

    def test_the_test_is_as_good_as_its_worst_length(self):
        task = build(InductionHeadsTask, HEADS)
        metrics = task.evaluate(InductionOracle(8, longest=64), "test")
        assert metrics["test/accuracy_at/64"] == 1.0
        assert metrics["test/accuracy_at/128"] == metrics["test/accuracy"] == 0.0

    def test_a_table_shows_accuracy_against_length(self):
        task = build(InductionHeadsTask, HEADS)
        metrics, (table,) = task.evaluate_detailed(InductionOracle(8, longest=64), "test")
        assert metrics == task.evaluate(InductionOracle(8, longest=64), "test")
        assert (table["kind"], table["marked"]) == ("curve", 16)
        assert table["x"] == [16, 32, 64, 128]
        assert table["y"] == [1.0, 1.0, 1.0, 0.0]
        assert task.evaluate_detailed(InductionOracle(8), "val")[1] == []

    def test_whoever_watches_is_told_of_every_batch_and_may_end_it(self):
        task = build(InductionHeadsTask, HEADS)  # ten sequences, three at a time
        seen = []
        task.on_eval_batch = lambda done, total: seen.append((done, total))
        task.evaluate_detailed(InductionOracle(8), "test")
        assert seen == [(done, 16) for done in range(16)]
        task.on_eval_batch = lambda done, total: 1 / 0
        with pytest.raises(ZeroDivisionError):
            task.evaluate(InductionOracle(8), "val")

    def test_long_sequences_come_a_few_at_a_time(self, monkeypatch):
        monkeypatch.setattr("mambalab.tasks.synthetic._MAX_EVAL_BATCH_TOKENS", 64)
        oracle = InductionOracle(8)
        build(InductionHeadsTask, HEADS, eval_batch_size=100).evaluate(oracle, "test")
        shapes = {tuple(tokens.shape) for tokens in oracle.seen}
        assert shapes == {(2, 32), (1, 64), (1, 128)}
        assert sum(len(tokens) for tokens in oracle.seen) == 30


def test_data_in_a_line():
    told = build(SelectiveCopyingTask, COPYING).describe_data()
    kinds = "toy, vocabulary of 7, 25 steps"
    assert told == f"{kinds}; sequences: new ones in every batch, 10 val"
