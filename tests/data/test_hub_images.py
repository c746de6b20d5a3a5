import io
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from mambalab.data import hub as module
from mambalab.data.hub_images import HubDataset, HubFile
from mambalab.errors import UserError
from tests.data.hub_server import Hub, cache, encode, parquet

NAME = "someone/pictures"
COUNTS = {"train": 20, "test": 6}
CODE = (
    "import sys; from pathlib import Path; from tests.data.test_hub_images import build;"
    "print(*build().require(Path(sys.argv[1])), sep='\\n')"
)


def build() -> HubDataset:
    """A train and a test split of tiny images in two classes."""
    url = "https://example.invalid"
    files = tuple(
        HubFile(f"set/{split}.parquet", f"{url}/{split}", "", 1000, NAME, f"data/{split}", n, 2, 8)
        for split, n in COUNTS.items()
    )
    return HubDataset("toy", "toy images", "CC0", url, files, "task=digits")


def images(count: int, kind: str = "PNG", side: int = 8) -> list[bytes]:
    pixels = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)
    return [encode(one, kind) for one in pixels]


CONTENT = {split: parquet(images(n), [i % 2 for i in range(n)]) for split, n in COUNTS.items()}
FILES = {f"data/{split}": content for split, content in CONTENT.items()}


@pytest.fixture
def dataset():
    return build()


@pytest.fixture
def place(tmp_path):
    """A function that writes the files, some of them changed."""

    def write(**changed: bytes) -> Path:
        (tmp_path / "set").mkdir(exist_ok=True)
        for split, content in (CONTENT | changed).items():
            (tmp_path / "set" / f"{split}.parquet").write_bytes(content)
        return tmp_path

    return write


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


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def refused(dataset: HubDataset, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        dataset.require(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestPreflight:
    def test_a_dead_host_is_named_at_once_with_the_way_out(self, dataset, tmp_path, monkeypatch):
        waited = []
        monkeypatch.setattr(time, "sleep", waited.append)
        message = refused(dataset, tmp_path)
        assert sum(waited) < 2
        for part in (
            "cannot fetch toy images: 127.0.0.1 refused the connection",
            "https://example.invalid/train",
            str(tmp_path / "set" / "train.parquet"),
            "data_dir=FOLDER",
            "task=digits",
        ):
            assert part in message
        assert "sha256" not in message  # none is published
        assert os.listdir(tmp_path) == []

    def test_a_mute_host_is_given_up(self, dataset, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "PREFLIGHT_SECONDS", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as mute:
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
            assert "no answer from 127.0.0.1 within 0.3 s" in refused(dataset, tmp_path)

    def test_the_patience_is_short(self):
        assert module.PREFLIGHT_SECONDS <= 6

    @pytest.mark.parametrize("name", module._OFFLINE)
    def test_offline_mode_is_respected(self, dataset, tmp_path, monkeypatch, name):
        monkeypatch.setenv(name, "1")
        monkeypatch.setattr(module, "open_url", lambda *_: pytest.fail("asked the network"))
        assert f"{name}=1 forbids the network" in refused(dataset, tmp_path)

    def test_an_endpoint_that_is_no_address_is_named(self, dataset, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "hub.example")
        assert "HF_ENDPOINT=hub.example is no http(s) address" in refused(dataset, tmp_path)

    def test_an_http_error_is_an_answer(self, hub):
        module.preflight()
        assert hub.requests == ["HEAD /"]


class TestFetch:
    def test_the_files_are_the_hubs_byte_by_byte(self, hub, dataset, tmp_path):
        paths = dataset.require(tmp_path)
        assert paths == [tmp_path / "set" / f"{split}.parquet" for split in COUNTS]
        assert [path.read_bytes() for path in paths] == list(CONTENT.values())
        assert left(tmp_path) == ["set/test.parquet", "set/train.parquet"]
        first, asked, *rest = hub.requests
        assert (first, len(rest)) == ("HEAD /", 2)
        assert asked.startswith(f"GET /api/datasets/{NAME}?blobs=")

    def test_two_processes_fetch_once(self, hub, tmp_path):
        command = [sys.executable, "-W", "error", "-c", CODE, str(tmp_path)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        both = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for process in both:
            out, err = process.communicate()
            assert process.returncode == 0, err
            assert out.split() == [str(tmp_path / "set" / f"{s}.parquet") for s in COUNTS]
            assert all(line.startswith("another process is") for line in err.splitlines())
        assert len([path for path in hub.requests if "/resolve/" in path]) == 2

    def test_other_bytes_than_the_hub_says_are_not_kept(self, hub, dataset, tmp_path):
        hub.sent["data/train"] = CONTENT["train"][:-1] + b"x"
        message = refused(dataset, tmp_path)
        assert "is not the expected file" in message
        assert os.listdir(tmp_path) == []

    def test_other_data_than_expected_are_not_kept(self, hub, dataset, tmp_path):
        hub.files["data/train"] = CONTENT["test"]
        message = refused(dataset, tmp_path)
        assert "the hub has another data/train now: 6 rows instead of 20" in message
        assert left(tmp_path) == []

    def test_a_file_that_the_hub_no_longer_has(self, hub, dataset, tmp_path):
        del hub.files["data/test"]
        message = refused(dataset, tmp_path)
        assert f"{hub.url}/datasets/{NAME} has no data/test. Put https://" in message
        assert str(tmp_path / "set" / "test.parquet") in message
        assert left(tmp_path) == ["set/train.parquet"]

    def test_files_that_are_here_need_no_network(self, dataset, place):
        folder = place()
        assert dataset.require(folder) == [folder / "set" / f"{s}.parquet" for s in COUNTS]

    def test_files_in_the_hubs_cache_need_none_either(self, dataset, tmp_path, monkeypatch, place):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        snapshot = cache(tmp_path / "hub", NAME, "dataset", FILES)
        assert dataset.require(tmp_path) == [snapshot / name for name in FILES]
        assert [row.checksum for row in dataset.rows(tmp_path)] == ["counts ok"] * 2
        assert "20 images" in dataset.report(tmp_path)[0]
        assert not (tmp_path / "set").exists()
        place()  # those in data_dir come first
        assert dataset.require(tmp_path)[0] == tmp_path / "set" / "train.parquet"

    def test_only_what_is_missing_is_written(self, dataset, place, hub):
        folder = place()
        before = (folder / "set" / "train.parquet").stat()
        (folder / "set" / "test.parquet").unlink()
        dataset.require(folder)
        after = (folder / "set" / "train.parquet").stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
        assert (folder / "set" / "test.parquet").read_bytes() == CONTENT["test"]

    def test_two_threads_fetch_once(self, dataset, tmp_path, hub):
        threads = [threading.Thread(target=dataset.fetch, args=(tmp_path,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([path for path in hub.requests if "/resolve/" in path]) == 2
        assert dataset.missing(tmp_path) == []

    def test_a_folder_that_cannot_be_made_is_named(self, dataset, tmp_path, hub):
        (tmp_path / "set").write_text("a file")
        assert "a part of this path is a file" in refused(dataset, tmp_path)


class TestVerify:
    def test_the_right_files_pass(self, dataset, place):
        dataset.verify(place())

    def test_verify_passes_over_what_is_not_here(self, dataset, tmp_path):
        dataset.verify(tmp_path)

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (b"PAR1 not really", "no parquet file"),
            (b"", "no parquet file"),
            (CONTENT["test"], "6 rows instead of 20"),
            (parquet(images(20), [0] * 20), "class 0 has not 10 images"),
            (parquet(images(20), [1, 2] * 10), "class 0 has not 10 images"),
            (parquet(images(20), [0, 1] * 10, image="image"), "no column 'img'; it has: image"),
        ],
    )
    def test_what_is_wrong_is_named(self, dataset, place, content, fault):
        folder = place(train=content)
        with pytest.raises(UserError) as error:
            dataset.verify(folder)
        assert f"train.parquet is not the published file ({fault}" in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("column", ["img", "label"])
    def test_columns_of_other_types_are_refused(self, dataset, place, column):
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = place()
        path = folder / "set" / "train.parquet"
        table = pq.read_table(path)
        texts = pa.array(["x"] * len(table))
        table = table.set_column(table.schema.get_field_index(column), column, texts)
        pq.write_table(table, path)
        with pytest.raises(UserError, match=f"column '{column}' holds string, not"):
            dataset.verify(folder)

    def test_a_folder_in_place_of_a_file_is_named(self, dataset, tmp_path):
        (tmp_path / "set" / "train.parquet").mkdir(parents=True)
        with pytest.raises(UserError, match=r"cannot read .*train\.parquet: Is a directory"):
            dataset.verify(tmp_path)

    def test_the_report_tells_originals_from_copies(self, dataset, place):
        mixed = images(15) + images(5, "JPEG")
        one, two = dataset.report(place(train=parquet(mixed, [0, 1] * 10)))
        assert "train.parquet: 20 images, 10 of each of 2 classes" in one
        assert "15 PNG (lossless) and 5 JPEG (lossy copies of the originals)" in one
        assert "readable: PNG (lossless); no checksum to compare with" in two

    @pytest.mark.parametrize("broken", ["not an image", "another size", "cut short"])
    def test_the_report_finds_a_broken_image(self, dataset, place, broken):
        content = images(20)
        content[7] = {
            "not an image": b"nothing",
            "another size": images(1, side=9)[0],
            "cut short": content[7][:60],
        }[broken]
        folder = place(train=parquet(content, [0, 1] * 10))
        dataset.verify(folder)  # at a start nobody looks at the images
        reason = "9 x 9 pixels, not 8 x 8" if broken == "another size" else "not an image"
        with pytest.raises(UserError, match=rf"train\.parquet, row 7: .*{reason}") as error:
            dataset.report(folder)
        assert "\n" not in str(error.value)

    def test_the_table_says_that_only_counts_are_known(self, dataset, place):
        folder = place(test=b"broken")
        train, test = dataset.rows(folder)
        assert (train.here, train.checksum, test.checksum) == (True, "counts ok", "WRONG")
        (folder / "set" / "test.parquet").unlink()
        assert dataset.rows(folder)[1][:3] == (False, "1.0 kB", "-")


def test_odd_parquet_files_are_one_line(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    (tmp_path / "set").mkdir()
    path, (file, *_) = tmp_path / "set" / "train.parquet", build().files
    table = pq.read_table(io.BytesIO(CONTENT["train"]))
    pq.write_table(table.append_column("label", pa.array([0] * 20)), path)
    assert file.fault(tmp_path) == "more than one column 'label'"
    column = table.schema.get_field_index("img")
    cells = [{**cell, "path": "name"} for cell in table["img"].to_pylist()]
    cells[3]["bytes"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n\n"
    changed = table.set_column(column, "img", pa.array(cells, table.schema.field("img").type))
    pq.write_table(changed, path, compression="none", use_dictionary=False)
    assert file.fault(tmp_path) is None
    with pytest.raises(UserError, match="row 3: not an image"):
        file.report(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"name", b"n\xffme"))
    with pytest.raises(UserError, match="column 'img' is damaged"):
        file.report(tmp_path)
