import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mambalab.data import hub as module
from mambalab.data import text_hub
from mambalab.errors import UserError
from tests.data.hub_server import Hub

NAME = "someone/stories"
PLACE = f"hf:{NAME}"


def rows(*texts: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), buffer)
    return buffer.getvalue()


FILES = {
    "README.md": b"read me",
    "data/train-00001-of-00002.parquet": rows("b"),
    "data/train-00000-of-00002.parquet": rows("a"),
    "data/validation-00000-of-00001.parquet": rows("v"),
    "data/test-00000-of-00001.parquet": rows("t"),
}


@pytest.fixture(autouse=True)
def endpoint(monkeypatch):
    """An address that refuses connections instead of the real hub, whatever the proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in module._OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine."""
    server = Hub(NAME, "dataset", dict(FILES))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.close()


def names(found):
    return {split: [path.name for path in paths] for split, paths in found.items()}


def test_splits_are_fetched_once_in_order(hub, tmp_path):
    found = text_hub.find(PLACE, tmp_path, None)
    assert names(found) == {
        "train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        "val": ["validation-00000-of-00001.parquet"],
        "test": ["test-00000-of-00001.parquet"],
    }
    assert found["train"][0].read_bytes() == rows("a")
    hub.requests.clear()
    assert text_hub.find(PLACE, tmp_path, None) == found
    assert hub.requests == []
    found["test"][0].unlink()  # what is lacking is fetched again, and nothing else
    assert text_hub.find(PLACE, tmp_path, None) == found
    assert sum(".parquet" in request for request in hub.requests) == 1


def test_a_part_is_chosen_and_not_taken_for_all_afterwards(hub, tmp_path):
    hub.files = {f"{part}/{name}": data for part in ("en", "fr/1") for name, data in FILES.items()}
    with pytest.raises(UserError, match=r"several parts: en/data, fr/1/data; choose one with"):
        text_hub.find(PLACE, tmp_path, None)
    assert not list(tmp_path.rglob("*.parquet"))
    found = text_hub.find(PLACE, tmp_path, "en/*")
    assert set(found) == {"train", "val", "test"}
    assert len(list(tmp_path.rglob("*.parquet"))) == 4
    with pytest.raises(UserError, match="several parts"):
        text_hub.find(PLACE, tmp_path, None)
    with pytest.raises(UserError, match=r"no parquet or text file named \*\.gz \(task\.files\)"):
        text_hub.find(PLACE, tmp_path, "*.gz")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["book.txt", "README.md"], {"train": ["book.txt"]}),
        (["train/0000.parquet", "test/0000.parquet"], {"train": 1, "test": 1}),
        (["s-train.txt", "s-dev.txt", "extra.txt"], {"train": 1, "val": 1}),
        (["a.txt", "a.parquet"], {"train": ["a.parquet"]}),
        (["contest.txt"], {"train": ["contest.txt"]}),
        (["../../train.txt", "/etc/train.txt", "ok/train.txt"], {"train": ["train.txt"]}),
    ],
)
def test_which_files_are_which_split(files, expected):
    chosen = text_hub._by_split(text_hub._chosen(files, None, "there"), "there")
    assert {split: len(found) for split, found in chosen.items()} == {
        split: n if isinstance(n, int) else len(n) for split, n in expected.items()
    }


def test_without_a_network_one_line_says_what_to_do(tmp_path):
    with pytest.raises(UserError) as error:
        text_hub.find(PLACE, tmp_path, None)
    message = str(error.value)
    assert "\n" not in message
    for part in ("task.path=hf:someone/stories", "refused the connection", "/datasets/someone"):
        assert part in message
    folder = tmp_path / "hub" / NAME
    assert str(folder) in message
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("put here by hand")
    assert names(text_hub.find(PLACE, tmp_path, None)) == {"train": ["mine.txt"]}


@pytest.mark.parametrize("place", ["hf:", "hf:name", "hf:a/b/c", "hf:../x"])
def test_what_is_no_name_is_refused(tmp_path, place):
    with pytest.raises(UserError, match="write hf:OWNER/NAME"):
        text_hub.find(place, tmp_path, None)


def test_a_data_set_without_texts(hub, tmp_path):
    hub.files = {"README.md": b"", "x.zip": b""}
    with pytest.raises(UserError, match="no parquet or text file; none"):
        text_hub.find(PLACE, tmp_path, None)
