import dataclasses
import gzip
import hashlib
import os
from pathlib import Path

import pytest

from mambalab.data import catalog
from mambalab.data.catalog import CATALOG
from mambalab.data.dataset import DataFile, Dataset, GzipFile, Row
from mambalab.errors import UserError


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
        str(tmp_path / "set" / "b.txt"),  # every file that is missing
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
            if name not in (
                "cifar10",
                "lra_image",
                "retrieval",
            ):  # of which no checksum is published
                assert len(bytes.fromhex(file.sha256)) == 32
            if isinstance(file, GzipFile):
                assert len(bytes.fromhex(file.content_sha256)) == 32
            assert file.url.startswith("https://")
            assert not file.path.startswith("/")


class TestGzip:
    """A published .gz, whose content counts."""

    CONTENT = b"grey pixels " * 1000
    LONG = "its content is longer than 12,000 bytes"

    @pytest.fixture
    def packed(self, server):
        server.content = gzip.compress(self.CONTENT, mtime=0)
        file = GzipFile(
            path="set/x-ubyte",
            url=server.url,
            sha256=hashlib.sha256(server.content).hexdigest(),
            size=len(server.content),
            content_sha256=hashlib.sha256(self.CONTENT).hexdigest(),
            content_size=len(self.CONTENT),
        )
        return Dataset("toy", "the toy set", "CC0", "https://example.invalid", (file,))

    @pytest.fixture
    def place(self, tmp_path):
        def write(name: str, content: bytes):
            (tmp_path / "set").mkdir(exist_ok=True)
            (tmp_path / "set" / name).write_bytes(content)
            return tmp_path / "set" / name

        return write

    def test_it_is_fetched_compressed(self, packed, server, tmp_path):
        assert packed.require(tmp_path) == [tmp_path / "set" / "x-ubyte.gz"]
        assert (tmp_path / "set" / "x-ubyte.gz").read_bytes() == server.content

    def test_a_download_is_checked_by_the_published_bytes(self, packed, server, tmp_path):
        server.content = gzip.compress(self.CONTENT, 1, mtime=5)
        with pytest.raises(UserError, match="cannot fetch the toy set") as error:
            packed.require(tmp_path)
        assert str(tmp_path / "set" / "x-ubyte.gz") in str(error.value)

    def test_compressed_anew_or_unzipped_is_as_good(self, packed, server, place, tmp_path):
        again = place("x-ubyte.gz", gzip.compress(self.CONTENT, 1, mtime=5))
        assert packed.require(tmp_path) == [again]
        plain = place("x-ubyte", self.CONTENT)
        assert packed.require(tmp_path) == [plain]
        again.unlink()
        assert packed.require(tmp_path) == [plain]
        assert server.requests == []

    @pytest.mark.parametrize(
        ("name", "change", "fault"),
        [
            ("x-ubyte.gz", lambda good: gzip.compress(good)[:-9], "damaged gzip data: "),
            ("x-ubyte.gz", lambda good: b"no gzip at all", "damaged gzip data: Not a gzipped file"),
            ("x-ubyte.gz", lambda good: b"", "0 bytes with sha256"),
            ("x-ubyte.gz", lambda good: gzip.compress(good[1:]), "11,999 bytes with sha256"),
            (
                "x-ubyte.gz",
                lambda good: gzip.compress(good * 900),
                LONG,
            ),
            ("x-ubyte", lambda good: good[:-1], "11,999 bytes with sha256"),
            ("x-ubyte", lambda good: good + b"!", LONG),
            ("x-ubyte", lambda good: good[:-1] + b"!", "12,000 bytes with sha256"),
        ],
    )
    def test_another_content_is_refused(self, packed, place, tmp_path, name, change, fault):
        path = place(name, change(self.CONTENT))
        with pytest.raises(UserError) as error:
            packed.require(tmp_path)
        message = str(error.value)
        assert f"{path} is not the published file ({fault}" in message
        assert "\n" not in message
        assert packed.rows(tmp_path)[0].checksum == "WRONG"

    def test_damaged_deflate_data_are_one_line(self, packed, place, tmp_path):
        content = bytearray(gzip.compress(self.CONTENT))
        content[12] ^= 0xFF
        place("x-ubyte.gz", bytes(content))
        with pytest.raises(UserError, match="damaged gzip data"):
            packed.verify(tmp_path)

    def test_a_folder_in_place_of_a_file_is_named(self, packed, tmp_path):
        (tmp_path / "set" / "x-ubyte.gz").mkdir(parents=True)
        with pytest.raises(UserError, match=r"cannot read .*x-ubyte\.gz: Is a directory"):
            packed.verify(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["mnist/b.idx1-ubyte", "b.idx1-ubyte.gz", "MNIST/raw/b.idx1-ubyte", "MNIST/b-idx1-ubyte"],
)
def test_mnist_is_found_by_the_names_that_people_have(tmp_path, name):
    content = b"these bytes"
    file = GzipFile(
        path="MNIST/raw/b-idx1-ubyte", url="", sha256="", size=0,
        content_sha256=hashlib.sha256(content).hexdigest(), content_size=len(content),
        also=catalog._mnist_places("b-idx1-ubyte"),
    )  # fmt: skip
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"another data set with names like these")
    assert file.find(tmp_path) is None
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    assert file.find(tmp_path) == path
    assert file.fault(tmp_path) is None


def test_mnist_here_is_mnist():
    folder = Path(os.environ.get("MAMBALAB_DATA_DIR", "data"))
    if CATALOG["mnist"].missing(folder):
        pytest.skip("no MNIST: set MAMBALAB_DATA_DIR to a folder that holds it")
    paths = CATALOG["mnist"].require(folder)
    stems = [path.name.removesuffix(".gz") for path in paths]
    assert stems == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ]


def test_every_task_has_an_entry():
    options = Path(__file__).parents[2] / "conf" / "task"
    tasks = {path.stem for path in options.glob("[!_]*.yaml")}
    assert tasks <= set(CATALOG)


def test_a_data_set_of_another_kind_fits_in(tmp_path):
    """What an archive needs: its parts are found, checked and listed its own way."""

    class Archive(Dataset):
        def missing(self, data_dir):
            return [] if (data_dir / "unpacked").exists() else [self.files[0]]

        def verify(self, data_dir):
            pass

        def fetch(self, data_dir):
            (data_dir / "unpacked").write_text("1")

        def require(self, data_dir):
            if self.missing(data_dir):
                self.fetch(data_dir)
            return [data_dir / "unpacked"]

        def rows(self, data_dir):
            here = not self.missing(data_dir)
            return [Row(here, "-", "-", str(data_dir / "unpacked"), self.files[0].url)]

    file = DataFile("archive.gz", "https://example.invalid/archive.gz", "", 7_700_000_000)
    archive = Archive("aan", "AAN", "CC0", "https://example.invalid", (file,))
    assert archive.needs_download
    assert not archive.rows(tmp_path)[0].here
    assert archive.require(tmp_path) == [tmp_path / "unpacked"]
    assert archive.report(tmp_path) == []
