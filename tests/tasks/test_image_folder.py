import numpy as np
import pytest
import torch
from PIL import Image

from mambalab.data.image_pixels import ImageReader
from mambalab.errors import UserError
from mambalab.tasks import image_folder as module
from mambalab.tasks.image_folder import ImageFolderTask
from tests.tasks.toys import FOLDER, build

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def fill():
    """A function that puts one-coloured images of several sizes into a folder for each class."""

    def write(folder, count=6, classes=COLOURS):
        for name, colour in classes.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                size = (8 + number, 12 - number)
                Image.new("RGB", size, colour).save(folder / name / f"{number}.png")

    return write


@pytest.fixture
def make(tmp_path):
    def prepared(**changes):
        return build(ImageFolderTask, FOLDER, path=str(tmp_path), **changes)

    return prepared


def load(path) -> torch.Tensor:
    """The pixels of one image file."""
    reader, pixels = ImageReader(8, 255), torch.empty(3, 8, 8, dtype=torch.uint8)
    reader.read(str(path), pixels)
    reader.finish()
    return pixels


def of_class(task, split: str) -> bool:
    """Whether every image has the colour of its class."""
    expected = torch.tensor([COLOURS[task.classes[label]] for label in task.labels[split]])
    return torch.equal(task.pixels[split].long(), expected[:, :, None, None].expand(-1, 3, 8, 8))


def test_classes_are_the_sub_folders_and_test_is_held_out(fill, make, tmp_path):
    fill(tmp_path)
    task = make()
    assert task.classes == ["blue", "green", "red"]
    sizes = {split: len(labels) for split, labels in task.labels.items()}
    assert sizes == {"train": 8, "val": 6, "test": 4, "train_sample": 6}
    assert all(of_class(task, split) for split in task.splits)
    every = torch.cat([task.labels[split] for split in ("train", "val", "test")])
    assert torch.bincount(every).tolist() == [6, 6, 6]
    assert (task.spec.seq_len, task.spec.input_dim, task.spec.classes) == (16, 12, 3)
    assert task.fingerprint()["path"] == str(tmp_path)
    other = make(seed=5)
    assert torch.equal(other.labels["test"], task.labels["test"])
    assert other.fingerprint() == task.fingerprint()


def test_copies_across_splits_are_told(fill, make, tmp_path, caplog):
    fill(tmp_path)  # images of one colour: scaled, all of a class are the same
    make()
    told = [r.getMessage() for r in caplog.records if "copies" in r.getMessage()]
    assert len(told) == 3
    assert f"{tmp_path}: 6 of 6 images in val are copies of one in train" in told[0]


def test_what_was_found_is_said_once(fill, make, tmp_path, caplog):
    caplog.set_level("INFO", logger="mambalab")
    fill(tmp_path / "train", 6)
    fill(tmp_path / "val", 3)
    fill(tmp_path / "test", 2)
    make()
    told = [r.getMessage() for r in caplog.records if "classes" in r.getMessage()]
    assert told == [f"{tmp_path}: 3 classes (blue, green, red); images: 18 train, 9 val, 6 test"]


def test_folders_train_and_test_are_the_splits(fill, make, tmp_path):
    fill(tmp_path / "train", 6)
    fill(tmp_path / "test", 2)
    task = make()
    sizes = {split: len(labels) for split, labels in task.labels.items()}
    assert sizes == {"train": 12, "val": 6, "test": 6, "train_sample": 6}
    assert task.classes == list(COLOURS)
    assert of_class(task, "test")


def test_a_class_that_train_lacks_is_refused(fill, make, tmp_path):
    fill(tmp_path / "train", classes={"red": COLOURS["red"], "blue": COLOURS["blue"]})
    fill(tmp_path / "test")
    with pytest.raises(UserError, match=r"test: the class green has images here and none in train"):
        make()
    (tmp_path / "test" / "green").rename(tmp_path / "test" / "Red")
    with pytest.raises(UserError, match=r"class Red has .* in train \(there it is called red\)"):
        make()


@pytest.mark.parametrize("empty", [False, True])
def test_a_split_may_lack_classes_and_that_is_told(fill, make, tmp_path, caplog, empty):
    fill(tmp_path / "train")
    fill(tmp_path / "test", 2, classes={"red": COLOURS["red"]})
    if empty:
        (tmp_path / "test" / "blue").mkdir()
    task = make()
    assert of_class(task, "test")
    assert "no image of blue, green in test: they are not measured there" in caplog.text


def test_classes_without_a_training_image_are_told(fill, make, tmp_path, caplog):
    fill(tmp_path, 12, {"blue": (0, 0, 255), "red": (255, 0, 0)})
    fill(tmp_path, 1, dict.fromkeys("cdef", (0, 0, 0)))
    task = make(val_size=6, test_size=6)
    counts = torch.bincount(task.labels["train"], minlength=6).tolist()
    absent = [name for name, n in zip(task.classes, counts, strict=True) if not n]
    assert absent
    assert f"no image of {', '.join(absent)} in train: they cannot be learnt" in caplog.text


@pytest.mark.parametrize("test", ["test", "test1"])
def test_a_test_folder_without_labels_is_left_out(fill, make, tmp_path, caplog, test):
    fill(tmp_path / "train", 6)
    (tmp_path / test).mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / test / f"{number}.png")
    task = make()
    assert task.classes == list(COLOURS)
    assert len(task.labels["test"]) == 4
    assert f"{tmp_path / test}: 3 images without labels" in caplog.text


def test_only_a_train_folder_is_the_data(fill, make, tmp_path):
    fill(tmp_path / "train", 6)
    task = make()
    assert task.classes == list(COLOURS)
    assert {s: len(labels) for s, labels in task.labels.items()} == {
        "train": 8, "val": 6, "test": 4, "train_sample": 6,
    }  # fmt: skip


def test_a_class_called_train_that_holds_folders_is_told(fill, make, tmp_path, caplog):
    fill(tmp_path / "train", 6, {"steam": (0, 0, 0), "diesel": (9, 9, 9)})
    fill(tmp_path, 6, {"bus": (1, 1, 1)})
    assert make().classes == ["bus", "train"]
    assert f"the class train holds folders, like a split; if these are the classes, use task.path={tmp_path}/train" in caplog.text  # fmt: skip # noqa: E501


@pytest.mark.parametrize(("other", "told"), [("test1", True), ("bus", False)])
def test_classes_named_like_splits_are_told(fill, make, tmp_path, caplog, other, told):
    fill(tmp_path, classes={"train": (0, 0, 255), other: (255, 0, 0)})
    make(val_size=2, test_size=2).prepare("cpu")
    assert ("named like splits; if they are splits, put a sub-folder" in caplog.text) is told


def test_a_folder_in_a_folder_is_hinted_at(fill, make, tmp_path):
    fill(tmp_path / "photos")
    with pytest.raises(
        UserError, match=rf"at least two classes .*; or task.path={tmp_path}/photos"
    ):
        make()


def test_accents_may_be_written_in_two_ways(fill, make, tmp_path, caplog):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "train", 6, {composed: (9, 9, 9), "red": (255, 0, 0)})
    fill(tmp_path / "val", 2, {decomposed: (9, 9, 9), "red": (255, 0, 0)})
    task = make()
    assert task.classes == [composed, "red"]
    assert task.pixels["val"][task.labels["val"] == 0].eq(9).all()
    fill(tmp_path / "train", 6, {decomposed: (9, 9, 9)})
    assert len(make().classes) == 3
    assert "sub-folders with nearly the same name" in caplog.text


def test_what_was_left_out_and_decided_is_told_and_recorded(fill, make, tmp_path, caplog):
    caplog.set_level("INFO", logger="mambalab")
    fill(tmp_path)
    for name in ("._0.png", "note.txt"):
        (tmp_path / "red" / name).write_bytes(b"\0\5\x16\7")
    Image.new("RGBA", (8, 8)).save(tmp_path / "red" / "clear.png")
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "red" / "deep.png")
    facts = make(background="128").fingerprint()
    assert (
        facts["left_out"]
        == "hidden and system files and folders (1), files of other kinds (.txt 1)"
    )
    assert facts["transparent"] == "1 images, on background 128"
    assert facts["deep"] == "values 0 to 4,095 become 0 to 255"
    for fact in ("left_out", "transparent", "deep"):
        assert facts[fact] in caplog.text
    assert make().fingerprint()["sha256"] != facts["sha256"]


def test_bad_images_are_named_together(fill, make, tmp_path):
    fill(tmp_path, 12)
    for number in range(12):
        (tmp_path / "red" / f"{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"^12 images cannot be used: .*; and 2 more: mend or") as e:
        make()
    assert str(e.value).count("cannot be read as an image") == 10


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_rgb(fill, make, tmp_path, mode):
    fill(tmp_path)
    kind = "tif" if mode == "CMYK" else "png"
    Image.new("L", (9, 9), 0).convert(mode if mode != "I;16" else "I").convert(mode).save(
        tmp_path / "red" / f"odd.{kind}"
    )
    task = make()
    every = torch.cat([task.pixels[split] for split in ("train", "val", "test")])
    assert every.shape == (19, 3, 8, 8)
    assert (every.flatten(1).long().sum(1) == 0).sum() == 1


def test_a_photograph_taken_sideways_is_turned(fill, make, tmp_path):
    fill(tmp_path)
    image = Image.new("RGB", (8, 8))
    image.paste((200, 200, 200), (0, 0, 8, 4))  # the upper half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees: the bright half goes to the right
    path = tmp_path / "red" / "photo.png"
    image.save(path, exif=exif)
    loaded = load(path)
    assert loaded[:, :, 4:].min() == 200
    assert loaded[:, :, :4].max() == 0
    make()


def test_the_middle_square_is_kept(tmp_path):
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 99
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    loaded = load(tmp_path / "wide.png")
    assert loaded.shape == (3, 8, 8)
    assert (loaded == 99).all()


@pytest.mark.parametrize("damage", ["no image", "empty", "cut short"])
def test_a_broken_image_is_named(fill, make, tmp_path, damage):
    fill(tmp_path)
    path = tmp_path / "green" / "3.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes({"no image": b"text", "empty": b"", "cut short": content[:2000]}[damage])
    with pytest.raises(UserError, match=r"3\.png cannot be read as an image") as error:
        make()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_monstrous_image_is_refused(fill, make, tmp_path, monkeypatch):
    fill(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (40, 40)).save(tmp_path / "red" / "huge.png")
    with pytest.raises(UserError, match=r"huge\.png cannot be read as an image"):
        make()


def test_what_is_missing_is_told(fill, make, tmp_path):
    with pytest.raises(UserError, match="put a sub-folder of images there for each class"):
        make()
    fill(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=f"{tmp_path}/empty: no images in .*, or remove it"
    ) as error:
        make()
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"nowhere \(task\.path\) does not exist"):
        build(ImageFolderTask, FOLDER, path="nowhere")
    with pytest.raises(UserError, match=r"name the folder with task\.path=FOLDER"):
        build(ImageFolderTask, FOLDER)


def test_sizes_that_do_not_fit_are_told(fill, make, tmp_path, monkeypatch):
    fill(tmp_path)
    with pytest.raises(
        UserError,
        match=r"task\.test_size=18: .* holds only 18 images; .* e\.g\. task\.test_size=2 "
        r"task\.val_size=2: 14 are left",
    ):
        make(test_size=18)
    with pytest.raises(
        UserError,
        match=r"task\.val_size=14: toy has 14 images to train and validate with; hold out fewer",
    ):
        make(val_size=14)
    with pytest.raises(UserError, match=r"task\.patch_size=3: must divide the 8 x 8"):
        make(patch_size=3)
    monkeypatch.setattr(module, "_MAX_PIXEL_BYTES", 18 * 3 * 64 - 1)
    with pytest.raises(UserError, match=r"use a smaller task\.image_size"):
        make()


@pytest.mark.parametrize("name", ["val", "Validation"])
def test_a_folder_for_validation_is_used(fill, make, tmp_path, name):
    fill(tmp_path / "train", 6)
    fill(tmp_path / name, 3)
    task = make()
    sizes = {split: len(labels) for split, labels in task.labels.items()}
    assert sizes == {"train": 14, "val": 9, "test": 4, "train_sample": 9}
    assert task.classes == ["blue", "green", "red"]
    assert all(of_class(task, split) for split in task.splits)
    fill(tmp_path / "test", 2)
    task = make()
    assert {s: len(labels) for s, labels in task.labels.items()} == {
        "train": 18, "val": 9, "test": 6, "train_sample": 9,
    }  # fmt: skip
    before = task.fingerprint()
    fill(tmp_path / name, 4)
    assert make().fingerprint() != before, "validation images belong to the data"


def test_folders_of_file_managers_are_no_classes(fill, make, tmp_path):
    fill(tmp_path)
    for name in (".thumbs", "__MACOSX"):
        fill(tmp_path, 1, {name: (0, 0, 0)})
    assert make().classes == ["blue", "green", "red"]


def test_one_class_is_not_enough(fill, make, tmp_path):
    fill(tmp_path, 6, {"blue": (0, 0, 255)})
    with pytest.raises(UserError, match="at least two classes"):
        make()


def test_16_bits_a_pixel_keep_their_brightness(fill, make, tmp_path):
    for name, value in (("dark", 0x2000), ("light", 0xC000)):
        (tmp_path / name).mkdir()
        for number in range(8):
            grey = np.full((8, 8), value + number, dtype=np.uint16)
            Image.fromarray(grey).save(tmp_path / name / f"{number}.png")
    task = make(test_size=2, val_size=2)
    for label, value in ((0, 0x20), (1, 0xC0)):
        assert task.pixels["train"][task.labels["train"] == label].eq(value).all()


def test_32_bits_a_pixel_are_refused(fill, make, tmp_path):
    fill(tmp_path)
    Image.new("F", (8, 8)).save(tmp_path / "red" / "float.tiff")
    with pytest.raises(UserError, match="32 bits a pixel"):
        make()


def test_shares_are_held_out_of_each_class(fill, make, tmp_path):
    fill(tmp_path)
    task = make(test_size=0.5, val_size=0.34)
    counts = {name: torch.bincount(task.labels[name]).tolist() for name in ("train", "val", "test")}
    assert counts == {"train": [2, 2, 2], "val": [1, 1, 1], "test": [3, 3, 3]}
