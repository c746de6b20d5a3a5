import os

import pytest

from mambalab.data.image_tree import formats, layout, scan
from mambalab.errors import UserError


@pytest.fixture
def put(tmp_path):
    """A function that makes empty files, folders (ending in /) and links (a -> b)."""

    def make(*names: str) -> None:
        for name in names:
            name, _, target = name.partition(" -> ")
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if target:
                path.symlink_to(target)
            elif name.endswith("/"):
                path.mkdir(exist_ok=True)
            else:
                path.touch()

    return make


def found(tree) -> list[str]:
    return [os.path.relpath(file, tree.path) for file, _ in tree.files]


def test_images_come_in_the_order_of_names_at_every_depth(put, tmp_path):
    put("b/2.png", "b/10.png", "b/z/1.JPG", "b/a/1.gif", "a/x.jfif", "a/b c/y.avif", "a/b/z.webp")
    tree = scan(tmp_path)
    assert tree.classes == ["a", "b"]
    wanted = ["a/x.jfif", "a/b/z.webp", "a/b c/y.avif"]
    assert found(tree) == [*wanted, "b/10.png", "b/2.png", "b/a/1.gif", "b/z/1.JPG"]
    assert tree.counts() == [3, 4]
    assert tree.left_out() == ""


@pytest.mark.parametrize(
    "hidden",
    [
        "cat/._0.png",
        "cat/.0.png",
        "cat/deep/.ipynb_checkpoints/0-checkpoint.png",
        "cat/@eaDir/0.png/SYNOFILE_THUMB_M.jpg",
        "@eaDir/",
        "@EADIR/0.png",
        "cat/__MACOSX/0.png",
        "__pycache__/0.png",
        "#recycle/0.png",
        "$RECYCLE.BIN/0.png",
        "System Volume Information/0.png",
        "lost+found/0.png",
        "cat/Thumbs.db",
        ".DS_Store",
        "cat/Icon\r",
    ],
)
def test_what_is_hidden_or_of_the_system_is_left_out_and_counted(put, tmp_path, hidden):
    put("cat/0.png", hidden)
    tree = scan(tmp_path)
    assert tree.classes == ["cat"]
    assert found(tree) == ["cat/0.png"]
    assert tree.left_out() == "hidden and system files and folders (1)"


def test_other_files_are_counted_by_extension(put, tmp_path):
    put(
        "cat/a.HEIC", "cat/deep/b.heic", "cat/c.txt", "cat/eps.eps", "cat/none", "0.png", "list.csv"
    )
    tree = scan(tmp_path)
    assert not tree.files
    assert tree.left_out() == (
        "images beside the sub-folders, in no class (1), "
        "files of other kinds (.heic 2, .txt 1, .eps 1, no extension 1)"
    )


def test_no_format_runs_another_program():
    assert not {"EPS", "WMF"} & set(formats())
    assert {"PNG", "JPEG", "GIF", "AVIF", "TIFF"} <= set(formats())


def test_a_link_leads_nowhere_twice(put, tmp_path):
    put("data/cat/0.png", "data/cat/deep/1.png", "data/dog/0.png", "other/2.png")
    put("data/cat/up -> ..", "data/cat/above -> ../..", "data/cat/self -> .")
    put("data/cat/dogs -> ../dog", "data/dog/cats -> ../cat/deep", "data/dog/more -> ../../other")
    put("data/dog/again -> ../../other", "data/top -> .", "data/gone -> nowhere")
    tree = scan(tmp_path / "data")
    assert tree.classes == ["cat", "dog"]
    assert found(tree) == ["cat/0.png", "cat/deep/1.png", "dog/0.png", "dog/again/2.png"]
    assert tree.repeated == 7


def test_a_class_may_be_a_link_but_not_to_another_class(put, tmp_path):
    put("far/0.png", "data/cat -> ../far", "data/dog/0.png")
    assert scan(tmp_path / "data").classes == ["cat", "dog"]
    put("data/zebra -> dog")
    with pytest.raises(UserError, match="dog and zebra are the same folder"):
        scan(tmp_path / "data")


@pytest.mark.parametrize(
    ("names", "parts", "ignored"),
    [
        (["a/0.png", "b/0.png"], {"train": ""}, ""),
        (["train/a/0.png", "test/"], {"train": "train", "test": "test"}, ""),
        (["Training/", "Valid/"], {"train": "Training", "val": "Valid"}, ""),
        (["train/a/", "val/", "validation/"], {"train": "train", "val": "val"}, "validation"),
        (["train/a/", "test1/0.png"], {"train": "train", "test": "test1"}, ""),
        (["train/a/", "test/", "test2/"], {"train": "train", "test": "test"}, "test2"),
        (
            ["training_set/a/", "test_set/a/", ".git/"],
            {"train": "training_set", "test": "test_set"},
            "",
        ),
        (["train2017/a/", "val2017/a/"], {"train": "train2017", "val": "val2017"}, ""),
        (["train/a/0.png"], {"train": "train"}, ""),
        (["train/0.png"], {"train": ""}, ""),
        (["train/0.png", "test1/0.png"], {"train": ""}, ""),
        (["train/0.png", "bus/0.png"], {"train": ""}, ""),
        (["trains/a/", "tests/a/"], {"train": ""}, ""),
        (["train/a/", "test/", "extra/"], {"train": "train", "test": "test"}, "extra"),
    ],
)
def test_splits_are_told_from_classes(put, tmp_path, names, parts, ignored):
    put(*names)
    told = layout(tmp_path)
    assert {split: str(p.relative_to(tmp_path)) for split, p in told.parts.items()} == {
        split: name or "." for split, name in parts.items()
    }
    assert ", ".join(told.ignored) == ignored
    assert not told.doubtful


def test_splits_without_classes_are_told_by_two_names(put, tmp_path):
    put("train2017/0.png")
    assert layout(tmp_path, flat=True).parts == {"train": tmp_path}
    put("val2017/0.png")
    found = {"train": tmp_path / "train2017", "val": tmp_path / "val2017"}
    assert layout(tmp_path, flat=True).parts == found
    assert layout(tmp_path).parts == {"train": tmp_path}
    put("1.png", "notes.txt", ".hidden.png")
    assert layout(tmp_path, flat=True).loose == 1
