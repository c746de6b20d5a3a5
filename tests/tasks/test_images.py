import dataclasses

import numpy as np
import pytest
import torch

from mambalab.errors import UserError
from tests.tasks.toys import OFF, PATCHES, PIXELS, Colour, Echo, Grey, build, numbers

NEAR = {"atol": 1e-5, "rtol": 0}


@pytest.mark.parametrize(("kind", "settings"), [(Grey, PIXELS), (Colour, PATCHES)])
class TestSplits:
    def test_every_image_is_in_one_split(self, kind, settings):
        task = build(kind, settings)
        sizes = {split: len(labels) for split, labels in task.labels.items()}
        assert sizes == {"train": 34, "val": 6, "test": 10, "train_sample": 6}
        held = numbers(task, "train") + numbers(task, "val")
        assert sorted(held) == list(range(40))
        assert numbers(task, "test") == list(range(40, 50))
        assert numbers(task, "train_sample") == numbers(task, "train")[:6]
        for split in task.splits:
            assert [n % 3 for n in numbers(task, split)] == task.labels[split].tolist()

    def test_they_are_the_same_for_all_seeds(self, kind, settings):
        one, two = build(kind, settings, seed=1), build(kind, settings, seed=2)
        for split in one.splits:
            assert numbers(one, split) == numbers(two, split)

    def test_data_fraction_takes_from_training_alone(self, kind, settings):
        whole, half = build(kind, settings), build(kind, settings, data_fraction=0.5)
        tiny = build(kind, settings, data_fraction=0.03)
        assert numbers(half, "train") == numbers(whole, "train")[:17]
        assert len(numbers(tiny, "train")) == len(numbers(tiny, "train_sample")) == 1
        for split in ("val", "test"):
            assert numbers(half, split) == numbers(tiny, split) == numbers(whole, split)
        with pytest.raises(UserError, match=r"data_fraction=0\.01: no training image is left"):
            build(kind, settings, data_fraction=0.01)

    def test_more_validation_than_there_is_is_refused(self, kind, settings):
        with pytest.raises(UserError, match=r"task\.val_size=40: toy has 40 images to train"):
            build(kind, settings, val_size=40)
        assert len(build(kind, settings, val_size=39).labels["train"]) == 1

    def test_statistics_are_those_of_all_training_images(self, kind, settings):
        task = build(kind, settings, data_fraction=0.5)
        every = task.read().train.pixels.float() / 255
        images = (every - task._mean) * task._scale
        torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(images.shape[1]), **NEAR)
        deviation = images.std((0, 2, 3), correction=0)
        torch.testing.assert_close(deviation, torch.ones(images.shape[1]), **NEAR)

    def test_batches_depend_on_seed_and_number_alone(self, kind, settings):
        one, again, other = (build(kind, settings, seed=seed) for seed in (5, 5, 6))
        ((x, lengths), labels), ((y, _), same) = one.batch(7), again.batch(7)
        assert torch.equal(x, y)
        assert torch.equal(labels, same)
        assert lengths is None
        one.batch(3)
        assert torch.equal(one.batch(7)[0][0], x)
        assert not torch.equal(one.batch(8)[0][0], x)
        assert not torch.equal(other.batch(7)[0][0], x)
        assert (labels.shape, labels.dtype, x.dtype) == ((4,), torch.int64, torch.float32)
        assert x.shape == (4, one.spec.seq_len, one.spec.input_dim)
        assert one.items_per_batch == 4 * one.spec.seq_len

    def test_each_round_goes_through_all_images_once(self, kind, settings):
        task = build(kind, settings)
        rows = np.concatenate([task.rows(k) for k in range(17)])  # 68 = two rounds of 34
        first, second = rows[:34], rows[34:]
        assert sorted(first) == sorted(second) == list(range(34))
        assert first.tolist() != second.tolist()

    def test_labels_stay_with_their_images(self, kind, settings):
        augment = dataclasses.replace(OFF, flip=True, crop=1)
        plain, changed = build(kind, settings), build(kind, settings, augment=augment)
        for position in range(9):
            (sequences, _), labels = plain.batch(position)
            rows = torch.from_numpy(plain.rows(position))
            assert torch.equal(labels, plain.labels["train"][rows])
            assert torch.equal(sequences, plain.inputs("train", rows.numpy(), None)[0])
            assert torch.equal(changed.batch(position)[1], labels)
            assert not torch.equal(changed.batch(position)[0][0], sequences)

    def test_evaluation_is_never_augmented(self, kind, settings):
        augment = dataclasses.replace(OFF, flip=True, crop=1, erasing=1.0)
        plain, changed = build(kind, settings), build(kind, settings, augment=augment)
        rows = np.arange(6)
        for split in ("train_sample", "val", "test"):
            assert torch.equal(
                plain.inputs(split, rows, None)[0], changed.inputs(split, rows, None)[0]
            )

    def test_the_fingerprint_is_that_of_all_data(self, kind, settings):
        task = build(kind, settings)
        mark = task.fingerprint()
        assert mark["path"] == "made up"
        assert build(kind, settings, seed=9, data_fraction=0.5).fingerprint() == mark

        class Relabelled(kind):
            def read(self):
                data = super().read()
                data.test.labels[3] += 1
                return data

        assert build(Relabelled, settings).fingerprint()["sha256"] != mark["sha256"]


def normalised(task, split: str) -> torch.Tensor:
    """The images of a split as the task normalises them, by the definition."""
    train = task.read().train.pixels.double() / 255
    deviation, mean = torch.std_mean(train, (0, 2, 3), keepdim=True, correction=0)
    return ((task.pixels[split] / 255 - mean) / deviation).float()


@pytest.mark.parametrize("input_dim", [1, 2, 3, 6, 24])
def test_pixels_are_read_row_by_row(input_dim):
    task = build(Grey, PIXELS, input_dim=input_dim)
    sequences, _ = task.inputs("val", np.arange(6), None)
    assert sequences.shape == (6, 24 // input_dim, input_dim)
    assert (task.spec.seq_len, task.spec.input_dim) == (24 // input_dim, input_dim)
    assert (task.spec.classes, task.spec.vocab_size) == (3, 0)
    torch.testing.assert_close(sequences.reshape(6, 1, 4, 6), normalised(task, "val"), **NEAR)


def test_permuted_pixels_are_all_there_in_one_order_for_all_seeds():
    plain = build(Grey, PIXELS, input_dim=1)
    one, two = (build(Grey, PIXELS, input_dim=1, permute=True, seed=seed) for seed in (1, 2))
    rows = np.arange(6)
    straight = plain.inputs("val", rows, None)[0][..., 0]
    mixed = one.inputs("val", rows, None)[0][..., 0]
    assert torch.equal(mixed, two.inputs("val", rows, None)[0][..., 0])
    assert torch.equal(straight.sort().values, mixed.sort().values)
    assert not torch.equal(straight, mixed)
    # A pixel is known by its values in all six images.
    order = [straight.T.tolist().index(column) for column in mixed.T.tolist()]
    assert sorted(order) == list(range(24))


@pytest.mark.parametrize("side", [1, 2])
def test_patches_put_together_by_hand_are_the_image(side):
    task = build(Colour, PATCHES, patch_size=side)
    sequences, _ = task.inputs("val", np.arange(6), None)
    high, wide = 4 // side, 6 // side
    assert sequences.shape == (6, high * wide, 3 * side * side)
    images = torch.empty(6, 3, 4, 6)
    for step in range(high * wide):
        top, left = step // wide * side, step % wide * side
        patch = sequences[:, step].view(6, 3, side, side)
        images[:, :, top : top + side, left : left + side] = patch
    torch.testing.assert_close(images, normalised(task, "val"), **NEAR)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"task\.input_dim=5: must divide the 24 pixels"):
        build(Grey, PIXELS, input_dim=5)
    with pytest.raises(UserError, match=r"task\.patch_size=4: must divide the 4 x 6 pixels"):
        build(Colour, PATCHES, patch_size=4)
    for crop in (3, 4):
        augment = dataclasses.replace(OFF, crop=crop)  # of 4 rows one is left to see
        if crop == 3:
            build(Grey, PIXELS, augment=augment)
            continue
        with pytest.raises(UserError, match=r"crop=4: .* images of 4 x 6 pixels .*; at most 3"):
            build(Grey, PIXELS, augment=augment)


def test_an_image_of_one_colour_everywhere_gives_finite_numbers():
    class Flat(Grey):
        def read(self):
            data = super().read()
            data.train.pixels.fill_(7)
            return data

    task = build(Flat, PIXELS)
    (sequences, _), _ = task.batch(0)
    torch.testing.assert_close(sequences, torch.zeros_like(sequences), **NEAR)
    assert torch.isfinite(task.inputs("test", np.arange(10), None)[0]).all()


def test_a_model_is_scored_on_whole_splits():
    task = build(Grey, PIXELS, input_dim=3)
    for split, count in (("val", 6), ("test", 10), ("train", 34)):
        guesses = task.inputs(split, np.arange(count), None)[0][:, 0].argmax(-1)
        right = float((guesses == task.labels[split]).double().mean())
        assert task.evaluate(Echo(), split)[f"{split}/accuracy"] == pytest.approx(right)


def test_patches_lie_in_a_grid_and_pixels_do_not():
    for side in (1, 2):
        spec = build(Colour, PATCHES, patch_size=side).spec
        assert spec.grid == (4 // side, 6 // side)
        assert spec.rows * spec.columns == spec.seq_len
    for input_dim in (1, 2, 6):
        assert build(Grey, PIXELS, input_dim=input_dim).spec.grid is None


def test_data_in_a_line_and_speed_in_images():
    task = build(Grey, PIXELS)
    assert task.describe_data() == "toy, 3 classes; images: 34 train, 6 val, 10 test"
    assert (task.unit, task.units_per_batch) == ("images", 4)
    tuned = build(Grey, PIXELS, tune=True).describe_data()
    assert tuned == "toy, 3 classes; images: 30 train, 4 val"
