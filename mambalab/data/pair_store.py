"""Labelled texts, or pairs of them, on disk: a file converted once, then read by offset.

A store is a folder with three files: `documents.bin` (all texts' bytes, cut to `max_bytes`, one
after another), `index.npz` (where each begins, labels, classes, sha256) and `rejected.txt` (the
rows that were left out, and why). It is in `FILE.tsv.store` beside the file if that can be
written, else in the user's cache. Its name holds a digest of the file's size and time of change,
so a changed file has another store, and a store is renamed into place when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import time
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mambalab.data.pair_convert import convert
from mambalab.data.pair_rows import RowLayout, clean_label
from mambalab.data.progress import human_bytes
from mambalab.errors import UserError
from mambalab.utils.locks import locked_folder
from mambalab.utils.private import cache_folder

LOG = logging.getLogger("mambalab")

_STORE_VERSION = 3  # of a store; raise it when what `convert` writes changes
_IO_BYTES = 1 << 20  # bytes read at a time
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNFINISHED = "unfinished-"


class PairStore:
    """Labelled texts or pairs of texts, read from disk as they are asked for.

    Texts are read with `os.pread`, not through a memory map: pages of a map count as this
    process's memory for as long as the kernel leaves them there, and a round through shuffled rows
    touches them all. What `pread` has read stays in the kernel's cache, which nobody has to bound.
    In memory are 18 bytes for each pair, 10 for a single text, whatever the texts' size.

    Attributes:
        source: the file that was converted.
        folder: of the store.
        classes: their names; a label is an index into them.
        labels: (n,) int16.
        sha256: of texts, labels and classes, computed when they were converted.
        texts: how many each example has, 1 or 2.
        lines: rows of the source, rejected ones included.
        rejected: how many rows were left out.
        quoted: rows that look as if quotation marks were meant to be taken off.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        """Open a store.

        Raises:
            OSError, ValueError, KeyError, zipfile.BadZipFile: it is not there, or damaged.
        """
        self.folder, self.source = folder, source
        self._descriptor = os.open(folder / "documents.bin", os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        with (
            open(folder / "index.npz", "rb") as file,  # np.load leaves a damaged one open
            np.load(file, allow_pickle=False) as index,
        ):
            self._offsets, self.labels = index["offsets"], index["labels"]
            about = json.loads(str(index["about"]))
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.sha256: str = about["sha256"]
        self.lines: int = about["lines"]
        self.rejected: int = about["rejected"]
        self.texts: int = about.get("texts", 2)
        self.quoted: int = about.get("quoted", 0)  # stores of older versions have no count
        if os.fstat(self._descriptor).st_size != self._offsets[-1]:
            raise ValueError("documents.bin has another size than the index says")

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Bytes of the texts of some examples: (b, texts) int64 for rows (b,) int64."""
        each = self.texts
        return np.diff(self._offsets[each * rows[:, None] + np.arange(each + 1)], axis=1)

    def digests(self) -> np.ndarray:
        """Read the digests (n,) uint64 of the texts of each example, as cut."""
        with open(self.folder / "index.npz", "rb") as file, np.load(file) as index:
            return index["digests"]

    def documents(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the texts of some examples.

        Args:
            rows: (b,) int64, below len(self).

        Returns:
            (b, texts, l) uint8 with l the longest of these texts and zeros after the ends of the
            others; their lengths in bytes (b, texts) int64.

        Raises:
            UserError: the disk does not give them.
        """
        each = self.texts
        begins = self._offsets[each * rows[:, None] + np.arange(each + 1)]  # and the next's
        lengths = np.diff(begins, axis=1)
        texts = np.zeros((len(rows), each, int(lengths.max())), dtype=np.uint8)
        for example, (start, *ends) in zip(texts, begins.tolist(), strict=True):
            size = ends[-1] - start
            try:
                whole = os.pread(self._descriptor, size, start)
            except OSError as error:
                raise UserError(f"cannot read {self.folder}: {error.strerror}") from None
            if len(whole) != size:
                raise UserError(f"{self.folder} was cut short: delete it and start again")
            data, begin = np.frombuffer(whole, np.uint8), 0
            for text, end in zip(example, ends, strict=True):
                text[: end - start - begin] = data[begin : end - start]
                begin = end - start
        return texts, lengths


def open_store(path: Path, layout: RowLayout, max_bytes: int) -> PairStore:
    """Open the store of a file, which is converted if it changed since, or never was.

    Processes that start together take turns: the first converts, the others find the store.
    Malformed rows are left out and reported: the first ten and their number as warnings, all of
    them in the store's `rejected.txt`.

    Args:
        path: of the file.
        layout: what its rows are.
        max_bytes: where a text is cut.

    Raises:
        UserError: the file is absent, unreadable, empty, holds no row that can be used, or has no
            labels in its first column; or there is no room for the store.
    """
    path = Path(os.path.expanduser(path)).absolute()
    facts = file_stat(path)
    name = _name(layout, max_bytes, facts)

    def write(folder: Path) -> None:
        LOG.info(
            "converting %s (%s) once, into %s", path, human_bytes(facts.st_size), folder.parent
        )
        with _open(path) as file:
            convert(file, path, layout, max_bytes, folder)
            after = os.fstat(file.fileno())
        if _name(layout, max_bytes, after) != name:
            raise UserError(f"{path} changed while it was read: start again when it is complete")

    beside = path.with_name(path.name + ".store")
    store, new = open_or_write(name, path, beside, write)
    if store.rejected:
        LOG.warning("%s", _summary(store))
    if new:
        # Stores of earlier versions of the file; whoever is reading one keeps it open.
        for old in store.folder.parent.glob(f"{layout.name}-{max_bytes}-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)
    return store


def open_or_write(
    name: str, source: Path, home: Path, write: Callable[[Path], None]
) -> tuple[PairStore, bool]:
    """Open a store by its name; it is written if there is none, and appears whole or not at all.

    Processes that start together take turns: the first writes it, the others find it.

    Args:
        name: of the store, a folder.
        source: what it is made of, for messages and for the place in the user's cache.
        home: folder for the store; that in the user's cache takes its place if it cannot be
            written.
        write: fills the folder that it is given.

    Returns:
        The store, and whether it is new.

    Raises:
        UserError: there is no room for it, or what `write` raises.
    """
    homes = (home, _cache_home(source))
    store = next(filter(None, (_load(home / name, source) for home in homes)), None)
    if store is not None:
        return store, False
    for home in homes:
        try:
            with locked_folder(home, f"converting {source}"):
                if found := _load(home / name, source):
                    return found, False
                return _make(name, source, home, write), True
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or home is homes[-1]:
                reason = error.strerror or str(error)
                raise UserError(
                    f"cannot write {home} ({reason}): the converted texts of {source} need a "
                    "folder; name one with the variable XDG_CACHE_HOME, or make room"
                ) from None
            LOG.info("%s cannot be written (%s)", home.parent, error.strerror)
    raise AssertionError("the last folder returns or raises")


def count_rows(path: Path) -> int:
    """Count the lines of a file, the last one also without its end.

    Raises:
        UserError: it cannot be read.
    """
    rows, last = 0, b"\n"
    try:
        with path.open("rb") as file:
            while chunk := file.read(_IO_BYTES):
                rows, last = rows + chunk.count(b"\n"), chunk[-1:]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return rows + (last != b"\n")


def file_stat(path: Path) -> os.stat_result:
    """Look at a file to convert; raises UserError unless it is a regular one."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise UserError(f"there is no file {path} (task.path)") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(facts.st_mode):
        raise UserError(f"{path} is no regular file; a file of texts is needed")
    return facts


def _name(layout: RowLayout, max_bytes: int, facts: os.stat_result) -> str:
    state = f"{_STORE_VERSION} {facts.st_size} {facts.st_mtime_ns}"
    return f"{layout.name}-{max_bytes}-{hashlib.sha256(state.encode()).hexdigest()[:16]}"


def _cache_home(path: Path) -> Path:
    """The folder for stores of `path` in the user's cache."""
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    return cache_folder("pairs") / f"{path.name}-{digest}.store"


def _load(folder: Path, source: Path) -> PairStore | None:
    """Open the store in `folder`; None if there is none that can be used."""
    if not os.path.isdir(folder):  # also where it may not be looked at
        return None
    try:
        store = PairStore(folder, source)
        # Older versions took off ASCII blanks only.
        return store if all(clean_label(name) == name for name in store.classes) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        LOG.warning("%s cannot be used (%s): converting %s again", folder, error, source)
        return None


def _make(name: str, source: Path, home: Path, write: Callable[[Path], None]) -> PairStore:
    """Write the store `name` in `home`, whose lock is held."""
    for old in home.glob(f"{_UNFINISHED}*"):  # of a process that was killed
        shutil.rmtree(old, ignore_errors=True)
    unfinished = home / f"{_UNFINISHED}{os.getpid()}-{time.monotonic_ns()}"
    unfinished.mkdir()
    try:
        write(unfinished)
        shutil.rmtree(home / name, ignore_errors=True)  # damaged, or it would have been used
        os.rename(unfinished, home / name)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return PairStore(home / name, source)


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb", buffering=_IO_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _summary(store: PairStore) -> str:
    return (
        f"{store.source}: {store.rejected:,} of {store.lines:,} rows were left out; the reasons "
        f"are in {store.folder / 'rejected.txt'}"
    )
