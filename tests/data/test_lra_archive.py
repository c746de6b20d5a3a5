import dataclasses
import gzip
import io
import os
import socket
import tarfile
import time

import pytest

from mambalab.bench import lra_corpus
from mambalab.commands import data
from mambalab.commands.data import DataAction, DataSettings
from mambalab.data import lra_archive as module
from mambalab.data.catalog import CATALOG
from mambalab.data.lra_archive import RETRIEVAL, PairFile, extract
from mambalab.errors import UserError

ROWS = {"new_aan_pairs.train.tsv": 6, "new_aan_pairs.eval.tsv": 4, "new_aan_pairs.test.tsv": 2}
INSIDE = "lra_release/lra_release/tsv_data/"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Contents of the three files, by name."""
    folder = tmp_path_factory.mktemp("corpus")
    train, evaluation, test = ROWS.values()
    lra_corpus.write(folder, train=train, eval=evaluation, test=test, size=300, seed=1)
    return {name: (folder / name).read_bytes() for name in ROWS}


def member(name: str, content: bytes = b"", **changes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def pack(members) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def release(files) -> bytes:
    """An archive like the published one: what is wanted among what is not."""
    others = [member(f"lra_release/listops/{n}.tsv", b"not wanted " * 100) for n in range(5)]
    wanted = [member(INSIDE + name, content) for name, content in files.items()]
    decoy = member("lra_release/aan/new_aan_pairs.train.only_ids.tsv", b"no")
    return pack([*others, decoy, *wanted, *others])


@pytest.fixture
def dataset(server, files):
    """The entry of the catalogue, with a server and numbers of rows of the test's own."""
    server.content = release(files)
    small = tuple(
        dataclasses.replace(file, url=server.url, rows=ROWS[file.path.rpartition("/")[2]])
        for file in RETRIEVAL.files
        if isinstance(file, PairFile)
    )
    return dataclasses.replace(RETRIEVAL, files=small)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "lra_retrieval"


def plain(folder) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.endswith(".store"))


def test_the_entry_is_in_the_catalogue():
    assert CATALOG["retrieval"] is RETRIEVAL
    assert [file.rows for file in RETRIEVAL.files if isinstance(file, PairFile)] == [
        147_086,
        18_090,
        17_437,
    ]


def test_fetch_downloads_unpacks_converts_and_deletes_the_archive(
    dataset, server, folder, files, tmp_path, caplog
):
    caplog.set_level("INFO", "mambalab")
    paths = dataset.require(tmp_path)
    assert [path.read_bytes() for path in paths] == list(files.values())
    assert plain(folder) == sorted(ROWS)
    assert all((folder / f"{name}.store").is_dir() for name in ROWS)
    assert f"deleted {folder / 'lra_release.gz'}" in caplog.text
    dataset.require(tmp_path)
    assert server.requests == [None]


def test_an_archive_placed_by_hand_is_used_and_kept(
    dataset, server, folder, files, tmp_path, caplog
):
    caplog.set_level("INFO", "mambalab")
    folder.mkdir()
    (folder / "lra_release.gz").write_bytes(server.content)
    dataset.require(tmp_path)
    assert server.requests == []
    assert plain(folder) == sorted([*ROWS, "lra_release.gz"])
    assert "not needed any more" in caplog.text


def test_a_file_that_is_here_is_never_touched(dataset, folder, tmp_path):
    folder.mkdir()
    mine = folder / "new_aan_pairs.train.tsv"
    mine.write_bytes(b"1.0\ta\tb\tmy\ttext\n0.0\ta\tb\tmy\ttext\n")
    with pytest.raises(UserError, match=r"is not the published file \(2 rows instead of 6\)") as e:
        dataset.require(tmp_path)
    assert "task.path=FOLDER" in str(e.value)
    assert mine.read_bytes().startswith(b"1.0\ta\tb\tmy")
    assert plain(folder) == sorted(ROWS)


def test_the_data_verb_lists_fetches_and_verifies(dataset, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CATALOG, "retrieval", dataset)

    def run(action: str) -> str:
        data.run(DataSettings(DataAction(action), "retrieval", str(tmp_path)))
        return capsys.readouterr().out

    assert run("list").count("in 7.7 GB") == 3
    with pytest.raises(UserError, match=r"there is no .*mambalab data fetch retrieval"):
        run("verify")
    assert "fetched" in run("fetch")
    assert "6 rows, as published" in run("verify")
    assert run("list").count(" yes ") == 3
    (folder / "new_aan_pairs.test.tsv").write_bytes(b"one row\n")
    with pytest.raises(UserError, match="1 rows instead of 2"):
        run("verify")
    assert "WRONG" in run("list")


def test_no_network_is_one_line_that_helps_within_ten_seconds(dataset, tmp_path, monkeypatch):
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(UserError) as error:
        dataset.require(tmp_path / "data")
    assert sum(waited) < 10
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "cannot be resolved",
        dataset.files[0].url,
        str(tmp_path / "data" / "lra_retrieval" / "lra_release.gz"),
        "new_aan_pairs.train.tsv",
        "task=pairs task.path=FILE",
        "task=text",
    ):
        assert part in message
    assert os.listdir(tmp_path) == []


def test_a_cut_download_is_continued(dataset, server, folder, tmp_path):
    server.cut = [len(server.content) // 2]
    with pytest.raises(UserError, match="cut after"):
        dataset.fetch(tmp_path)
    assert plain(folder) == ["lra_release.gz.part", "lra_release.gz.part-from"]
    dataset.fetch(tmp_path)
    assert server.requests[1] is not None
    assert plain(folder) == sorted(ROWS)


EVIL = {
    "absolute": lambda c: member("/tmp/new_aan_pairs.eval.tsv", c),
    "upwards": lambda c: member("x/../../new_aan_pairs.eval.tsv", c),
    "symlink": lambda c: member(
        INSIDE + "new_aan_pairs.eval.tsv", type=tarfile.SYMTYPE, linkname="/etc/passwd"
    ),
    "hard link": lambda c: member(
        INSIDE + "new_aan_pairs.eval.tsv", type=tarfile.LNKTYPE, linkname="../../secret"
    ),
    "device": lambda c: member(INSIDE + "new_aan_pairs.eval.tsv", type=tarfile.CHRTYPE),
    "pipe": lambda c: member(INSIDE + "new_aan_pairs.eval.tsv", type=tarfile.FIFOTYPE),
    "folder": lambda c: member(INSIDE + "new_aan_pairs.eval.tsv", type=tarfile.DIRTYPE),
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_members_are_refused_and_nothing_is_written(kind, files, tmp_path):
    train, evaluation, test = files.items()
    members = [member(INSIDE + train[0], train[1]), EVIL[kind](evaluation[1])]
    (tmp_path / "a.gz").write_bytes(pack([*members, member(INSIDE + test[0], test[1])]))
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"leads out of the folder|is not a plain file") as error:
        extract(tmp_path / "a.gz", folder, ROWS)
    assert "\n" not in str(error.value)
    assert os.listdir(folder) == []
    assert sorted(os.listdir(tmp_path)) == ["a.gz", "one"]


def test_evil_members_that_nobody_wants_are_passed_over(files, tmp_path):
    wanted = [member(INSIDE + name, content) for name, content in files.items()]
    evil = [member("../../evil.tsv", b"x"), member("/abs", type=tarfile.SYMTYPE, linkname="/")]
    (tmp_path / "a.gz").write_bytes(pack([*evil, *wanted]))
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    extract(tmp_path / "a.gz", folder, ROWS)
    assert sorted(os.listdir(folder)) == sorted(ROWS)
    assert sorted(os.listdir(tmp_path)) == ["a.gz", "one"]


def damaged(content: bytes, kind: str) -> bytes:
    if kind == "no archive":
        return b"<html>log in</html>"
    if kind == "gzip of no tar":
        return gzip.compress(b"no tar" * 1000)
    if kind == "cut gzip":
        return content[: len(content) // 2]
    if kind == "cut tar":
        return gzip.compress(gzip.decompress(content)[:9000])
    if kind == "empty":
        return b""
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    return bytes(flipped)


@pytest.mark.parametrize(
    "kind", ["no archive", "gzip of no tar", "cut gzip", "cut tar", "empty", "flipped"]
)
def test_a_damaged_archive_is_named_and_kept_and_nothing_else_stays(
    kind, dataset, server, folder, tmp_path
):
    folder.mkdir()
    archive = folder / "lra_release.gz"
    archive.write_bytes(damaged(server.content, kind))
    with pytest.raises(UserError, match=r"lra_release\.gz is not Long Range Arena's archive") as e:
        dataset.fetch(tmp_path)
    assert "\n" not in str(e.value)
    assert plain(folder) == ["lra_release.gz"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_gigabytes_is_not_read(tmp_path, kind):
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, 3_000_000_000
    (tmp_path / "a.gz").write_bytes(gzip.compress(header.tobuf() + bytes(10240)))
    with pytest.raises(UserError, match="a header of"):
        extract(tmp_path / "a.gz", tmp_path, ROWS)


def test_wrong_numbers_of_rows_are_refused(files, tmp_path):
    (tmp_path / "a.gz").write_bytes(release(files))
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(UserError, match=r"eval\.tsv has 4 rows instead of 5"):
        extract(tmp_path / "a.gz", folder, ROWS | {"new_aan_pairs.eval.tsv": 5})
    assert os.listdir(folder) == []


def test_an_absent_member_is_named(files, tmp_path):
    (tmp_path / "a.gz").write_bytes(release({n: c for n, c in files.items() if "test" not in n}))
    with pytest.raises(UserError, match=r"it has no new_aan_pairs\.test\.tsv"):
        extract(tmp_path / "a.gz", tmp_path, ROWS)


def test_a_full_disk_is_named_before_a_member_is_written(files, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)
    (tmp_path / "a.gz").write_bytes(release(files))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(UserError, match=r"the disk is full: .*are needed"):
        extract(tmp_path / "a.gz", tmp_path, ROWS)
    assert os.listdir(tmp_path) == ["a.gz"]
