import hashlib
import subprocess
import sys

import pytest

from mambalab.cli.main import main
from mambalab.commands import data
from mambalab.commands.data import DataAction, DataSettings
from mambalab.data import dataset as data_files
from mambalab.data.catalog import CATALOG
from mambalab.data.dataset import DataFile, Dataset
from mambalab.errors import UserError

CONTENT = b"to be or not to be"


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """A data set whose server is dead."""
    file = DataFile(
        "toy/a.txt", "http://127.0.0.1:9/a.txt", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT)
    )
    dataset = Dataset("toy", "the toy set", "CC0", "https://example.invalid", (file,))
    monkeypatch.setitem(CATALOG, "toy", dataset)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def run(tmp_path):
    return lambda action, name=None: data.run(DataSettings(DataAction(action), name, str(tmp_path)))


@pytest.fixture
def place(tmp_path):
    def write(content: bytes) -> None:
        (tmp_path / "toy").mkdir(exist_ok=True)
        (tmp_path / "toy" / "a.txt").write_bytes(content)

    return write


def row(output: str, name: str) -> list[str]:
    """The words of an entry: its line, and the two below it."""
    lines = output.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(name))
    return " ".join(lines[first : first + 3]).split()


def test_list_shows_what_is_here_and_whether_it_is_right(run, place, capsys, tmp_path):
    path = str(tmp_path / "toy" / "a.txt")
    expected = ["CC0", path, "http://127.0.0.1:9/a.txt"]
    assert run("list") == 0
    output = capsys.readouterr().out
    assert " ".join(row(output, "task")) == "task here size checksum licence where source"
    assert row(output, "toy") == ["toy", "no", "18", "B", "-", *expected]
    assert row(output, "text")[:4] == ["text", "yes", "-", "-"]
    lines = output.replace(str(tmp_path), "data").splitlines()
    assert max(len(line) for line in lines if "//huggingface.co/" not in line) <= 102
    place(CONTENT)
    run("list")
    assert row(capsys.readouterr().out, "toy") == ["toy", "yes", "18", "B", "ok", *expected]
    place(b"other")
    run("list", "toy")
    assert row(capsys.readouterr().out, "toy") == ["toy", "yes", "5", "B", "WRONG", *expected]


def test_list_leaves_large_files_unread(run, place, capsys, monkeypatch):
    monkeypatch.setattr(data_files, "MAX_LISTED_BYTES", 10)
    place(CONTENT)
    run("list", "toy")
    assert "unchecked" in row(capsys.readouterr().out, "toy")


def test_verify_tells_right_wrong_and_missing_apart(run, place, capsys):
    with pytest.raises(UserError, match=r"there is no .*mambalab data fetch toy"):
        run("verify", "toy")
    place(b"other")
    with pytest.raises(UserError, match="not the published file"):
        run("verify", "toy")
    place(CONTENT)
    assert run("verify", "toy") == 0
    assert capsys.readouterr().out.endswith("a.txt: checksum ok\n")


def test_fetch_uses_what_is_here_and_names_what_fails(run, place, capsys):
    with pytest.raises(UserError, match=r"cannot fetch the toy set: .*refused the connection"):
        run("fetch", "toy")
    place(CONTENT)
    assert run("fetch", "toy") == 0
    assert "toy: already here and checked" in capsys.readouterr().out
    assert run("fetch", "text") == 0
    assert "text: needs no download" in capsys.readouterr().out


def test_every_task_is_listed_and_what_needs_no_download_is_never_fetched(run, capsys):
    run("list")
    output = capsys.readouterr().out
    for name in ("digits", "images", "listops", "selective_copying", "induction_heads"):
        assert row(output, name)[:2] == [name, "yes"]
        for action in ("fetch", "verify"):
            assert run(action, name) == 0
            assert capsys.readouterr().out == f"{name}: needs no download\n"
    for name in ("mnist", "cifar10"):
        assert row(output, name)[:2] == [name, "no"]
        with pytest.raises(UserError, match=f"there is no .*mambalab data fetch {name}"):
            run("verify", name)


def test_an_unknown_name_is_answered_with_a_likely_one(run):
    with pytest.raises(UserError, match="no data set 'shakespear'; did you mean shakespeare"):
        run("fetch", "shakespear")
    with pytest.raises(UserError, match=r"no data set 'x'; there are: shakespeare, .*, toy"):
        run("verify", "x")


def test_listing_needs_no_torch():
    code = (
        "import sys; from mambalab.commands import data;"
        "from mambalab.commands.data import DataAction, DataSettings;"
        "data.run(DataSettings(DataAction.list, None, 'nowhere'));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_command_line_shows_how_far_a_download_is(server, tmp_path, monkeypatch, capsys):
    sha256, size = hashlib.sha256(server.content).hexdigest(), len(server.content)
    file = DataFile("toy/b.txt", server.url, sha256, size)
    monkeypatch.setitem(CATALOG, "toy", Dataset("toy", "the toy set", "CC0", "", (file,)))
    assert main(["data", "fetch", "toy", f"data_dir={tmp_path}"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "b.txt: fetching, 0 B of 600.0 kB",
        "b.txt: done, 600.0 kB of 600.0 kB",
    ]
