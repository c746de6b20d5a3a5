import hashlib
import io
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mambalab.data.catalog import CATALOG
from mambalab.data.corpora import Corpus, WikiText, ZipFile
from mambalab.data.dataset import DataFile
from mambalab.errors import UserError

CONTENT = ("x" * 9 + "é" + "y" * 10).encode()  # é has the bytes 9 and 10


def packed(*members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, member in enumerate(members):
            archive.writestr(f"file{number}", member)
    return buffer.getvalue()


@pytest.fixture
def corpus(server):
    server.content = packed(CONTENT)
    file = ZipFile(
        path="toy/toy",
        url=server.url,
        sha256=hashlib.sha256(server.content).hexdigest(),
        size=len(server.content),
        content_sha256=hashlib.sha256(CONTENT).hexdigest(),
        content_size=len(CONTENT),
        also=("toy",),
    )
    about = ("toy", "the toy text", "CC0", "https://example.invalid")
    return Corpus(*about, files=(file,), parts=(10, 5, 6))


def test_it_is_fetched_packed_and_cut_after_whole_characters(corpus, tmp_path):
    parts, path = corpus.read(tmp_path)
    assert parts == {"train": b"x" * 9 + "é".encode(), "val": b"y" * 4, "test": b"y" * 6}
    assert path == tmp_path / "toy" / "toy.zip"
    corpus.verify(tmp_path)
    assert corpus.rows(tmp_path)[0].checksum == "ok"


@pytest.mark.parametrize("name", ["toy/toy", "toy"])
def test_unpacked_it_is_as_good(corpus, server, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(CONTENT)
    assert corpus.read(tmp_path)[1] == path
    assert server.requests == []


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (packed(CONTENT)[:-9], "File is not a zip file"),
        (b"", "File is not a zip file"),
        (packed(), "0 files in it instead of one"),
        (packed(CONTENT, b""), "2 files in it instead of one"),
        (packed(CONTENT + b"!"), "another sha256|longer than"),
        (packed(CONTENT[:-1]), "another sha256|20 bytes with"),
    ],
)
def test_another_content_is_refused(corpus, tmp_path, content, fault):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.zip").write_bytes(content)
    for refuse in (corpus.read, corpus.verify):
        with pytest.raises(UserError, match=fault) as error:
            refuse(tmp_path)
        assert "\n" not in str(error.value)
        assert "is not the published file" in str(error.value)


def test_damaged_data_are_one_line(corpus, tmp_path):
    content = bytearray(packed(CONTENT * 50))
    content[40] ^= 0xFF
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.zip").write_bytes(content)
    with pytest.raises(UserError, match="is not the published file"):
        corpus.read(tmp_path)


def test_the_published_splits():
    for name in ("enwik8", "text8"):
        corpus = CATALOG[name]
        assert isinstance(corpus, Corpus)
        assert corpus.parts == (90_000_000, 5_000_000, 5_000_000)
        (file,) = corpus.files
        assert isinstance(file, ZipFile)
        assert sum(corpus.parts) == file.content_size


def lines(*texts: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), buffer)
    return buffer.getvalue()


def test_the_lines_of_wikitext_are_put_together(tmp_path):
    parts = {
        "train-0": lines("", " = A = \n"),
        "train-1": lines(" b c \n"),
        "validation": lines(" v \n"),
        "test": lines("", " t \n"),
    }
    files = tuple(
        DataFile(
            f"w/{name}.parquet", "https://huggingface.co/x", hashlib.sha256(data).hexdigest(), 1
        )
        for name, data in parts.items()
    )
    (tmp_path / "w").mkdir()
    for name, data in parts.items():
        (tmp_path / "w" / f"{name}.parquet").write_bytes(data)
    wiki = WikiText("w", "W", "CC0", "https://example.invalid", files)
    texts, folder = wiki.read(tmp_path)
    assert texts == {"train": " \n = A = \n b c \n", "val": " v \n", "test": " \n t \n"}
    assert folder == tmp_path / "w"
    (tmp_path / "w" / "test.parquet").write_bytes(lines("another"))
    with pytest.raises(UserError, match=r"test\.parquet is not the published file"):
        wiki.read(tmp_path)


@pytest.mark.parametrize("name", ["wikitext2", "wikitext103"])
def test_wikitext_honours_the_hubs_variables(name, tmp_path, monkeypatch, server):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1 forbids the network") as error:
        CATALOG[name].fetch(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path / name / "test.parquet") in str(error.value)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    server.status = 404
    monkeypatch.setenv("HF_ENDPOINT", server.url.rpartition("/")[0])
    with pytest.raises(UserError, match="HTTP 404"):
        CATALOG[name].fetch(tmp_path)
