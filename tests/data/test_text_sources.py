import hashlib
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mambalab.data import text_sources
from mambalab.data.text_sources import END, digest, has_documents, read
from mambalab.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a folder of texts."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "docs/b.txt": "b",
        "docs/B.txt": "B",
        "docs/a/z.md": "z",
        "docs/a.py": "code",
        "docs/.hidden.txt": "secret",
        "docs/.git/x.txt": "secret",
        "docs/empty.txt": "",
        "one.txt": "one",
        "two.txt": "two",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_one_file_is_as_it_is(folder):
    found = read("one.txt")
    assert (found.text, found.digests) == ("one", (sha256("one"),))
    assert found.path == str(folder / "one.txt")
    assert digest([found.digests]) == sha256("one")


def test_a_list_is_read_in_its_order_with_an_end_after_each(folder):
    found = read(["two.txt", "one.txt"])
    assert found.text == f"two{END}one{END}"
    assert json.loads(found.path) == [str(folder / "two.txt"), str(folder / "one.txt")]
    assert digest([found.digests]) != digest([read(["one.txt", "two.txt"]).digests])
    assert digest([["a", "b"]]) != digest([["a"], ["b"]])


def test_a_folder_is_read_in_the_order_of_paths(folder, caplog):
    caplog.set_level("INFO", "mambalab")
    assert read("docs").text == f"B{END}z{END}b{END}"
    assert "left out of *.txt or *.md: 1 empty" in caplog.text
    assert "3 files named *.txt or *.md" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "text"), [("*.py", "code"), ("a/*", "z"), ("[B]*", "B"), ("*/*.md", "z")]
)
def test_a_pattern_chooses_files(folder, pattern, text):
    assert read("docs", pattern=pattern).text == f"{text}{END}"


def test_no_file_that_fits_is_told_with_what_there_is(folder):
    with pytest.raises(UserError, match=r"named \*\.c: 5 have other names; choose .*task\.files="):
        read("docs", pattern="*.c")
    with pytest.raises(UserError, match=r"named empty\*: 1 are empty, 4 have other names"):
        read("docs", pattern="empty*")
    (folder / "new").mkdir()
    with pytest.raises(UserError, match="the folder is empty"):
        read("new")
    with pytest.raises(UserError, match=r"task\.path=\[\]: name at least one file"):
        read([])
    with pytest.raises(UserError, match=r"task\.files=x: chooses files of a folder"):
        read("one.txt", pattern="x")


def test_odd_things_in_a_folder(folder, caplog):
    os.mkfifo(folder / "docs" / "pipe.txt")
    os.symlink("loop.txt", folder / "docs" / "loop.txt")
    os.symlink("..", folder / "docs" / "a" / "up")
    os.symlink(folder / "docs", folder / "docs" / "again")
    os.symlink(folder / "one.txt", folder / "docs" / "link.txt")
    assert read("docs").text == f"B{END}z{END}b{END}one{END}"
    assert "1 empty, 1 that are no files" in caplog.text
    (folder / "docs" / "wide.txt").write_bytes("ä".encode("utf-16"))
    with pytest.raises(UserError, match=r"wide\.txt is UTF-16, not UTF-8; convert it") as error:
        read("docs")
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_read_is_one_line(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(text_sources.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read .*docs \(task\.path\): Permission denied"):
        read("docs")


def test_a_named_file_that_is_none(folder):
    os.mkfifo(folder / "pipe.parquet")
    os.mkfifo(folder / "pipe.txt")
    for name in ("pipe.txt", "pipe.parquet"):
        with pytest.raises(UserError, match="is no regular file"):
            read(name)
    for name in ("no.txt", "no.parquet"):
        with pytest.raises(UserError, match=rf"there is no file .*{name} \(task\.val_path\)"):
            read(["one.txt", name], key="task.val_path")


def test_each_file_is_read_once(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(
        text_sources, "read_text", lambda path, key: (opened.append(path.name) or "x", "0")
    )
    read("docs")
    assert opened == ["B.txt", "z.md", "b.txt"]


def test_rows_of_a_parquet_file_are_documents(folder, tmp_path):
    path = parquet(tmp_path / "t.parquet", id=[1, 2, 3, 4], text=["a", None, "", "d"])
    found = read(path)
    assert found.text == f"a{END}d{END}"
    assert found.digests == (hashlib.sha256((tmp_path / "t.parquet").read_bytes()).hexdigest(),)
    assert has_documents(path)
    assert not has_documents("one.txt")
    assert not has_documents(None)
    assert has_documents("docs")
    only = parquet(tmp_path / "o.parquet", id=[1], words=["w"])
    assert read(only).text == f"w{END}"
    two = parquet(tmp_path / "p.parquet", id=[1], fr=["f"], en=["e"])
    assert read(two, column="en").text == f"e{END}"
    with pytest.raises(UserError, match=r"There are 'fr', 'en'; name one with task\.column="):
        read(two)
    with pytest.raises(UserError, match=r"no column 'id' of texts"):
        read(two, column="id")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"bad\.parquet is no parquet file, or damaged") as error:
        read("bad.parquet")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="holds no text"):
        read(parquet(tmp_path / "none.parquet", text=["", ""]))


def test_ends_inside_documents_are_told(folder, caplog):
    (folder / "one.txt").write_text(f"a{END}b")
    assert read(["one.txt"]).text == f"a{END}b{END}"
    assert "1 characters U+0003 inside" in caplog.text
