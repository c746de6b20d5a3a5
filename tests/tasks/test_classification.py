import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from mambalab.settings.task import ClassificationSettings
from mambalab.spec import ModelSpec
from mambalab.tasks.classification import ClassificationTask, metric_names
from tests.tasks.toys import Echo

SETTINGS = ClassificationSettings(
    name="toy",
    _target_="tests",
    batch_size=8,
    eval_batch_size=16,
    params={},
    label_smoothing=0.0,
)
CLASSES = ["cat", "dog", "hot air balloon", "fish"]


class Guesses(ClassificationTask):
    """Examples whose only step holds random logits; class 3 never comes in `test`."""

    classes = CLASSES

    def prepare(self, device="cpu"):
        self.spec = ModelSpec(0, 1, input_dim=4, classes=4)
        generator = torch.Generator().manual_seed(3)
        sizes = {"train": 40, "val": 50, "test": 37, "train_sample": 5}
        self.logits = {k: torch.randn(n, 1, 4, generator=generator) for k, n in sizes.items()}
        self.labels = {k: torch.randint(4, (n,), generator=generator) for k, n in sizes.items()}
        self.labels["test"] %= 3

    def inputs(self, split, rows, position):
        return self.logits[split][torch.from_numpy(rows)], None


@pytest.fixture
def make(tmp_path):
    def build(seed=0, **changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        task = Guesses(settings, seed=seed, data_dir=tmp_path, data_fraction=1.0)
        task.prepare()
        return task

    return build


@pytest.mark.parametrize("eval_batch_size", [1, 7, 16, 1000])
@pytest.mark.parametrize("split", ["train", "val", "test", "train_sample"])
def test_scores_are_averages_over_examples_however_they_are_batched(make, split, eval_batch_size):
    task = make(eval_batch_size=eval_batch_size)
    metrics = task.evaluate(Echo(), split)
    logits, labels = task.logits[split][:, 0].double(), task.labels[split]
    assert metrics == {
        f"{split}/loss": pytest.approx(
            log_loss(labels, logits.softmax(-1).numpy(), labels=range(4)), rel=1e-5
        ),
        f"{split}/accuracy": pytest.approx(accuracy_score(labels, logits.argmax(-1))),
    }


@pytest.mark.parametrize("eval_batch_size", [1, 7, 1000])
def test_metrics_of_a_subclass_are_averages_over_examples(make, eval_batch_size, monkeypatch):
    def top2(self, logits, labels):
        assert logits.dtype == torch.float32
        assert logits.shape == (len(labels), 4)
        return {"accuracy_top2": (logits.topk(2).indices == labels[:, None]).any(1).float().mean()}

    task = make(eval_batch_size=eval_batch_size)
    plain = task.evaluate(Echo(), "val")
    monkeypatch.setattr(Guesses, "batch_metrics", top2)
    metrics, _ = task.evaluate_detailed(Echo(), "val")
    expected = top_k_accuracy_score(
        task.labels["val"], task.logits["val"][:, 0].numpy(), k=2, labels=range(4)
    )
    assert metrics["val/accuracy_top2"] == pytest.approx(expected)
    assert task.evaluate(Echo(), "val") == {**plain, "val/accuracy_top2": pytest.approx(expected)}


def test_the_confusion_table_is_sklearns(make):
    task = make(eval_batch_size=7)
    metrics, (table,) = task.evaluate_detailed(Echo(), "test")
    labels, guesses = task.labels["test"], task.logits["test"][:, 0].argmax(-1)
    expected = confusion_matrix(labels, guesses, labels=range(4))
    assert table["counts"] == expected.tolist()
    assert (table["kind"], table["classes"]) == ("confusion", CLASSES)
    assert table["title"] == "toy, test split"
    assert metrics["test/accuracy"] == pytest.approx(expected.trace() / 37)
    for label, name in enumerate(["cat", "dog", "hot_air_balloon"]):
        share = expected[label, label] / expected[label].sum()
        assert metrics[f"test/accuracy_of/{name}"] == pytest.approx(share)
    assert "test/accuracy_of/fish" not in metrics  # there is none: no accuracy, rather than 0
    assert {key: metrics[key] for key in ("test/loss", "test/accuracy")} == task.evaluate(
        Echo(), "test"
    )


def test_accuracy_chooses_the_checkpoints(make):
    task = make()
    assert (task.metric, task.maximize) == ("val/accuracy", True)
    assert task.metric in task.evaluate(Echo(), "val")


def test_the_training_loss_is_cross_entropy_with_label_smoothing(make):
    (sequences, _), labels = make().batch(3)
    logp = sequences[:, 0].double().log_softmax(-1)
    plain = -logp[torch.arange(8), labels].mean()
    assert float(make().loss(Echo(), make().batch(3))) == pytest.approx(float(plain), rel=1e-5)
    smooth = 0.9 * plain - 0.1 * logp.mean()
    task = make(label_smoothing=0.1)
    assert float(task.loss(Echo(), task.batch(3))) == pytest.approx(float(smooth), rel=1e-5)
    # Scores are of the plain loss: comparable whatever the training did.
    assert task.evaluate(Echo(), "val") == make().evaluate(Echo(), "val")


def test_a_loss_from_half_precision_is_computed_in_float32(make):
    class Half(Echo):
        def forward(self, sequences, lengths=None):
            return super().forward(sequences).bfloat16()

    assert make().loss(Half(), make().batch(0)).dtype == torch.float32
    assert math.isfinite(make().evaluate(Half(), "val")["val/loss"])


def test_batches_go_round_and_depend_on_seed_and_number_alone(make):
    task = make()
    rows = np.concatenate([task.rows(k) for k in range(10)])
    assert sorted(rows[:40]) == sorted(rows[40:]) == list(range(40))
    assert task.rows(4).tolist() == make().rows(4).tolist() != make(seed=1).rows(4).tolist()
    (sequences, _), labels = task.batch(4)
    chosen = torch.from_numpy(task.rows(4))
    assert torch.equal(sequences, task.logits["train"][chosen])
    assert torch.equal(labels, task.labels["train"][chosen])


def test_a_batch_larger_than_the_data_goes_round_inside_it(make):
    rows = make(batch_size=100).rows(0)
    assert np.bincount(rows, minlength=40).tolist().count(2) == 20
    assert sorted(rows[:40]) == list(range(40))


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["hot dog", "été-1.5"], ["hot_dog", "été-1.5"]),
        (["a b", "a_b", "c"], ["0_a_b", "1_a_b", "2_c"]),
        (["same", "same"], ["0_same", "1_same"]),
        (["", "x"], ["_", "x"]),
        (["..", "."], ["0__", "1__"]),
        (["x" * 300, "y"], ["x" * 80, "y"]),
        (["a/b"], ["a_b"]),
    ],
)
def test_class_names_become_distinct_parts_of_metric_names(classes, names):
    assert metric_names(classes) == names
