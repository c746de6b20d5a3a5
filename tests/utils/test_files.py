import os

import pytest

from mambalab.utils.files import is_damaged_json, is_partial, replacing, write_json


def cut_short(target) -> str:
    """Begin to write and fail; returns the name of the unfinished file."""
    with replacing(target) as partial:
        partial.write_text("half")
        raise KeyError(partial.name)


def test_what_a_killed_writer_leaves_is_known(tmp_path):
    with pytest.raises(KeyError) as raised:
        cut_short(tmp_path / "config.yaml")
    (name,) = raised.value.args
    assert str(os.getpid()) in name
    assert is_partial(name, "config.yaml")
    assert is_partial(".config.yaml.812", "config.yaml")
    for other in ("config.yaml", ".config.yaml", ".config.12.json", ".config.mine.yaml", "a.12.b"):
        assert not is_partial(other, "config.yaml")


def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError):
        cut_short(target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "old"


def test_json_brings_no_lost_folder_back(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / "gone/summary.json", {})
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("make", "damaged"),
    [
        (lambda path: path.write_text("{}"), False),
        (lambda path: path.write_text("[1]"), True),
        (lambda path: path.write_bytes(b"\x00\xff"), True),
        (lambda path: path.mkdir(), True),
        (lambda path: path.symlink_to(path.name), True),  # a loop
        (lambda path: path.symlink_to("/etc/hostname"), True),
        (os.mkfifo, True),
        (lambda path: None, False),
    ],
)
def test_what_is_no_json_file_is_damaged(tmp_path, make, damaged):
    path = tmp_path / "summary.json"
    make(path)
    assert is_damaged_json(path) == damaged
