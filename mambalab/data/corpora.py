"""Large texts that language models are compared on: enwik8, text8, WikiText."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, ClassVar

from mambalab.data import hub
from mambalab.data.dataset import DAMAGED, DataFile, Dataset, GzipFile
from mambalab.data.download import DownloadError
from mambalab.errors import UserError, first_line

_WIKITEXT = "Salesforce/wikitext"
_WIKITEXT_REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
_BLANK_LINE = " \n"  # in the published files; the hub has an empty row in its place


@dataclass(frozen=True)
class ZipFile(GzipFile):
    """A published .zip file with a single file in it, here packed or unpacked."""

    packed: ClassVar[str] = ".zip"

    def open(self, path: Path) -> IO[bytes]:
        """Open the content of a file at `path`, which is packed if its name says so."""
        if path.suffix != ".zip":
            return path.open("rb")
        with zipfile.ZipFile(path) as archive:
            inside = [one for one in archive.infolist() if not one.is_dir()]
            if len(inside) != 1:
                raise zipfile.BadZipFile(f"{len(inside)} files in it instead of one")
            if inside[0].flag_bits & 1:
                raise zipfile.BadZipFile("it is encrypted")
            return archive.open(inside[0])


@dataclass(frozen=True)
class Corpus(Dataset):
    """A text in one packed file, cut into splits by a number of bytes.

    Attributes:
        parts: bytes of `train`, `val` and `test`, which lie in this order.
    """

    parts: tuple[int, int, int] = (0, 0, 0)

    @property
    def content_sha256(self) -> str:
        """sha256 of the unpacked text."""
        (file,) = self.files
        assert isinstance(file, GzipFile)
        return file.content_sha256

    def read(self, data_dir: Path) -> tuple[dict[str, bytes], Path]:
        """Find or fetch the file, and read it once: its splits, and its path.

        A byte within a UTF-8 character at the beginning of a split belongs to the split before.

        Raises:
            UserError: it cannot be had, or is not the published file.
        """
        self.fetch(data_dir)
        (file,) = self.files
        assert isinstance(file, GzipFile)
        path = file.find(data_dir) or file.target(data_dir)
        try:
            with file.open(path) as content:
                data = content.read(file.content_size + 1)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except DAMAGED as error:
            raise self.wrong(path, first_line(error)) from None
        if hashlib.sha256(data).hexdigest() != self.content_sha256:
            raise self.wrong(path, f"its content has another sha256 than {self.content_sha256}")
        assert sum(self.parts) == len(data), "the splits are of the published file"
        splits, begin, end = {}, 0, 0
        for name, length in zip(("train", "val", "test"), self.parts, strict=True):
            end += length
            stop = end
            while stop < len(data) and data[stop] & 0xC0 == 0x80:
                stop += 1
            splits[name] = data[begin:stop]
            begin = stop
        return splits, path.absolute()

    def wrong(self, path: Path, fault: str) -> UserError:
        """Build the error that the file at `path` is not the published one."""
        return UserError(
            f"{path.absolute()} is not the published file ({fault}): move it away and run "
            f"`mambalab data fetch {self.name}`, or put {self.files[0].url} in its place"
        )


@dataclass(frozen=True)
class WikiText(Dataset):
    """WikiText with its raw text, in parquet files of the hub at one revision, a row each line."""

    @property
    def sha256(self) -> str:
        """sha256 of those of all files."""
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()

    def read(self, data_dir: Path) -> tuple[dict[str, str], Path]:
        """Find or fetch the files, check them, and join the lines of each split; and their folder.

        Raises:
            UserError: they cannot be had, or are not the published ones.
        """
        import pyarrow.parquet as pq

        splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        paths = self.require(data_dir)
        for path in paths:
            split = "val" if path.name.startswith("val") else path.stem.partition("-")[0]
            rows = pq.read_table(path, columns=["text"])["text"].to_pylist()
            splits[split] += (row or _BLANK_LINE for row in rows)
        return {name: "".join(lines) for name, lines in splits.items()}, paths[0].parent.absolute()

    def fetch(self, data_dir: Path) -> None:
        """Download what is missing, from a mirror if `HF_ENDPOINT` names one.

        Raises:
            UserError: names the reason, the file to put where, and how to train offline.
        """
        if not (missing := self.missing(data_dir)):
            return
        try:
            hub.preflight()
        except DownloadError as error:
            raise self.failed(missing[0], data_dir, error) from None
        mirrored = (replace(f, url=f.url.replace(_HUB, hub.endpoint(), 1)) for f in self.files)
        Dataset.fetch(replace(self, files=tuple(mirrored)), data_dir)


_HUB = "https://huggingface.co"


def _mahoney(name: str, size: int, sha256: str, content_sha256: str) -> ZipFile:
    """A file of 100,000,000 bytes in a .zip; where else people have it: the folder itself."""
    return ZipFile(
        path=f"{name}/{name}",
        url=f"https://mattmahoney.net/dc/{name}.zip",
        sha256=sha256,
        size=size,
        content_sha256=content_sha256,
        content_size=100_000_000,
        also=(name,),
    )


def _wikitext(name: str, title: str, part: str, train: tuple[tuple[int, str], ...]) -> WikiText:
    shared = (
        (
            "validation",
            "validation-00000-of-00001",
            657_209,
            "204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c",
        ),
        (
            "test",
            "test-00000-of-00001",
            732_610,
            "5f1bea067869d04849c0f975a2b29c4ff47d867f484f5010ea5e861eab246d91",
        ),
    )
    one = len(train) == 1
    files = [
        ("train" if one else f"train-{n}", f"train-{n:05}-of-{len(train):05}", size, sha256)
        for n, (size, sha256) in enumerate(train)
    ]
    return WikiText(
        name=name,
        title=title,
        licence="CC BY-SA 3.0, GFDL",
        source=f"https://huggingface.co/datasets/{_WIKITEXT}",
        files=tuple(
            DataFile(
                path=f"{name}/{ours}.parquet",
                url=f"{_HUB}/datasets/{_WIKITEXT}/resolve/{_WIKITEXT_REVISION}/{part}/{theirs}"
                ".parquet",
                sha256=sha256,
                size=size,
            )
            for ours, theirs, size, sha256 in (*files, *shared)
        ),
    )


CORPORA: tuple[Dataset, ...] = (
    Corpus(
        name="enwik8",
        title="enwik8",
        licence="GFDL (Wikipedia of 2006)",
        source="https://mattmahoney.net/dc/textdata.html",
        files=(
            _mahoney(
                "enwik8",
                36_445_475,
                "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
                "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
            ),
        ),
        parts=(90_000_000, 5_000_000, 5_000_000),
    ),
    Corpus(
        name="text8",
        title="text8",
        licence="GFDL (Wikipedia of 2006)",
        source="https://mattmahoney.net/dc/textdata.html",
        files=(
            _mahoney(
                "text8",
                31_344_016,
                "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
                "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
            ),
        ),
        parts=(90_000_000, 5_000_000, 5_000_000),
    ),
    _wikitext(
        "wikitext2",
        "WikiText-2",
        "wikitext-2-raw-v1",
        ((6_357_543, "e83889baabc497075506f91975be5fac0d45c5290b6b20582c8cd1e853d0c9f7"),),
    ),
    _wikitext(
        "wikitext103",
        "WikiText-103",
        "wikitext-103-raw-v1",
        (
            (156_987_808, "74da360f23826045b3e6ac6375411fdb15f003030aa74f2596ed08b857cb9212"),
            (157_088_770, "ba090ac30dbf5461e8dcbdd1a1b8e6f3cf9c2c756d64f0c1220450acd514f720"),
        ),
    ),
)
