"""What a stranger may have put in a file's place is one line, at once."""

import os
import socket
from pathlib import Path

import pytest

from mambalab.errors import UserError
from mambalab.utils.files import read_json, replacing
from mambalab.utils.reading import check_no_link, inside, open_regular, parse_yaml, read_bytes


def put(kind: str, path: Path) -> None:
    """Make something else than a file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "name":
        path.with_name("x" * 300)


@pytest.mark.parametrize("kind", ["pipe", "directory", "socket", "device", "loop", "huge"])
def test_what_is_no_small_file_is_refused(workdir, kind):
    path = workdir / "summary.json"
    put(kind, path)
    with pytest.raises(UserError, match=r"summary\.json") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_file_has(tmp_path, name):
    with pytest.raises(UserError, match="cannot read"):
        open_regular(tmp_path / name)


def test_a_link_stays_inside_its_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret.json").write_text('{"a": 1}')
    (folder / "real.json").write_text('{"b": 2}')
    (folder / "out.json").symlink_to("../secret.json")
    (folder / "in.json").symlink_to("real.json")
    (folder / "sub").symlink_to(tmp_path)
    assert read_json(folder / "in.json", folder) == {"b": 2}
    assert read_json(folder / "out.json") == {"a": 1}
    for name in ("out.json", "sub/secret.json"):
        with pytest.raises(UserError, match="a link leads out of"):
            read_json(folder / name, folder)
    assert read_json(folder / "absent.json", folder) == {}
    alias = tmp_path / "alias"  # the folder itself may be a link
    alias.symlink_to(folder)
    assert read_json(alias / "real.json", alias) == {"b": 2}
    assert not inside(folder / "../secret.json", folder)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, '{"a": ' + "1" * 5000, "\0" * 99]
)
def test_odd_json_is_damaged(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 2024-13-45", "not YAML"),
        ("a: 0b_", "not YAML"),
        ("a: !!int x", "not YAML"),
        ("a: !!float x", "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("a: !!bool x", "not YAML"),
        ("? [a]\n: b", "not YAML"),
        ("a: !!python/object:os.system x", "not YAML"),
        ("[" * 3000 + "]" * 3000, "levels deep"),
        ("- " * 3000, "levels deep"),
        ("a: &a [1]\nb: *a", "aliases"),
        ("a: " + "9" * 4301, "4,301 characters"),
        ("a: 1" + ":30" * 100_000, "characters"),
        ("a: [" + "1," * 200_001 + "]", "too many"),
    ],
)
def test_odd_yaml_is_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_yaml(text, "config.yaml")
    assert "\n" not in str(caught.value)


def test_ordinary_yaml_is_read():
    assert parse_yaml('a: [1, 2.5, x, null, "' + "9" * 400 + '"]', "a")["a"][:3] == [1, 2.5, "x"]
    assert parse_yaml("a: &a [1]\nb: *a", "a", aliases=True) == {"a": [1], "b": [1]}


def test_sizes_are_bounded(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(UserError, match="11 bytes are too many for a label"):
        read_bytes(tmp_path / "a", limit=10, kind="a label")


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "plots").symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="is a link, and nothing is written through it"):
        check_no_link(tmp_path / "plots")
    (tmp_path / f".summary.{os.getpid()}.json").symlink_to(tmp_path / "theirs")
    with replacing(tmp_path / "summary.json") as partial:
        partial.write_text("new")
    assert (tmp_path / "theirs").read_text() == "kept"
    assert (tmp_path / "summary.json").read_text() == "new"
