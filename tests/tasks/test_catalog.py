import dataclasses
import hashlib

import pytest

from mambalab.errors import UserError
from mambalab.tasks.catalog import CATALOG, DataFile, Dataset


@pytest.fixture
def dataset(server):
    """Two files of one content, both served by `server`."""
    digest, size = hashlib.sha256(server.content).hexdigest(), len(server.content)
    files = tuple(DataFile(f"set/{n}.txt", server.url, digest, size) for n in "ab")
    return Dataset("toy", "the toy set", "CC0", "https://example.invalid", files)


def test_require_fetches_what_is_missing_and_returns_the_paths(dataset, server, tmp_path):
    paths = dataset.require(tmp_path)
    assert paths == [tmp_path / "set" / "a.txt", tmp_path / "set" / "b.txt"]
    assert all(path.read_bytes() == server.content for path in paths)
    paths[1].unlink()
    assert dataset.missing(tmp_path) == [dataset.files[1]]
    dataset.require(tmp_path)
    dataset.require(tmp_path)
    assert len(server.requests) == 3


def test_a_failed_fetch_says_why_what_where_and_what_else(dataset, server, tmp_path):
    server.status = 404
    with pytest.raises(UserError) as error:
        dataset.require(tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "cannot fetch the toy set",
        "HTTP 404",
        server.url,
        str(tmp_path / "set" / "a.txt"),
        dataset.files[0].sha256,
        "data_dir=",
        "task=text",
    ):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_a_differing_file_is_refused_and_never_replaced(dataset, server, tmp_path):
    path = tmp_path / "set" / "a.txt"
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    for refuse in (dataset.verify, dataset.require):
        with pytest.raises(UserError, match=r"a\.txt is not the published file \(7 bytes") as error:
            refuse(tmp_path)
        assert "\n" not in str(error.value)
    assert path.read_bytes() == b"damaged"


def test_a_folder_in_place_of_a_file_is_named(dataset, tmp_path):
    (tmp_path / "set" / "a.txt").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot read .*a\.txt: Is a directory"):
        dataset.verify(tmp_path)


def test_verify_passes_over_what_is_not_here(dataset, tmp_path):
    dataset.verify(tmp_path)


def test_the_shipped_entries_are_complete():
    for name, dataset in CATALOG.items():
        assert name == dataset.name
        assert all(dataclasses.asdict(dataset)[key] for key in ("title", "licence", "source"))
        for file in dataset.files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.url.startswith("https://")
            assert not file.path.startswith("/")
