"""Pairs of texts on disk: a TSV file converted once, then read by offset.

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
import tempfile
import time
import weakref
import zipfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mambalab.data import duplicates, encodings
from mambalab.data.pair_rows import (
    BadRow,
    Layout,
    clean_label,
    is_quoted,
    lines,
    rewrite_command,
    split,
)
from mambalab.data.progress import human_bytes
from mambalab.errors import UserError
from mambalab.utils.locks import locked_folder
from mambalab.utils.private import private_folder

LOG = logging.getLogger("mambalab")

_STORE_VERSION = 3  # of a store; raise it when what `_convert` writes changes
_MAX_REJECTED_LOGGED = 10  # rejected rows that are logged one by one
_IO_BYTES = 1 << 20  # bytes written, and hashed, at a time
_MAX_CLASSES = 1000  # beyond that, the first column is hardly a label
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNFINISHED = "unfinished-"


class PairStore:
    """Labelled pairs of texts, read from disk as they are asked for.

    Texts are read with `os.pread`, not through a memory map: pages of a map count as this
    process's memory for as long as the kernel leaves them there, and a round through shuffled rows
    touches them all. What `pread` has read stays in the kernel's cache, which nobody has to bound.
    In memory are 18 bytes for each pair, whatever the texts' size.

    Attributes:
        source: the file that was converted.
        folder: of the store.
        classes: their names; a label is an index into them.
        labels: (n,) int16.
        sha256: of texts, labels and classes, computed when they were converted.
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
        self.quoted: int = about.get("quoted", 0)  # stores of older versions have no count
        if os.fstat(self._descriptor).st_size != self._offsets[-1]:
            raise ValueError("documents.bin has another size than the index says")

    def __len__(self) -> int:
        return len(self.labels)

    def digests(self) -> np.ndarray:
        """Read the digests (n,) uint64 of the texts of each pair, as cut."""
        with open(self.folder / "index.npz", "rb") as file, np.load(file) as index:
            return index["digests"]

    def documents(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the texts of some pairs.

        Args:
            rows: (b,) int64, below len(self).

        Returns:
            (b, 2, l) uint8 with l the longest of these texts and zeros after the ends of the
            others; their lengths in bytes (b, 2) int64.

        Raises:
            UserError: the disk does not give them.
        """
        begins = self._offsets[2 * rows[:, None] + np.arange(3)]  # (b, 3): both, and the next's
        lengths = np.diff(begins, axis=1)
        texts = np.zeros((len(rows), 2, int(lengths.max())), dtype=np.uint8)
        for pair, (start, middle, end) in zip(texts, begins.tolist(), strict=True):
            try:
                both = os.pread(self._descriptor, end - start, start)
            except OSError as error:
                raise UserError(f"cannot read {self.folder}: {error.strerror}") from None
            if len(both) != end - start:
                raise UserError(f"{self.folder} was cut short: delete it and start again")
            data = np.frombuffer(both, np.uint8)
            pair[0, : middle - start] = data[: middle - start]
            pair[1, : end - middle] = data[middle - start :]
        return texts, lengths


def open_store(path: Path, layout: Layout, max_bytes: int) -> PairStore:
    """Open the store of a TSV file, which is converted if it changed since, or never was.

    Processes that start together take turns: the first converts, the others find the store.
    Malformed rows are left out and reported: the first ten and their number as warnings, all of
    them in the store's `rejected.txt`.

    Args:
        path: of the file.
        layout: its columns.
        max_bytes: where a text is cut.

    Raises:
        UserError: the file is absent, unreadable, empty, holds no row that can be used, or has no
            labels in its first column; or there is no room for the store.
    """
    path = Path(os.path.expanduser(path)).absolute()
    facts = _stat(path)
    name = _name(layout, max_bytes, facts)
    homes = (path.with_name(path.name + ".store"), _cache_home(path))
    store = next(filter(None, (_load(home / name, path) for home in homes)), None)
    if store is not None:
        if store.rejected:
            LOG.warning("%s", _summary(store))
        return store
    for home in homes:
        try:
            with locked_folder(home, f"converting {path}"):
                return _load(home / name, path) or _make(path, facts, layout, max_bytes, home)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or home is homes[-1]:
                reason = error.strerror or str(error)
                raise UserError(
                    f"cannot write {home} ({reason}): the converted texts of {path} need a folder; "
                    "name one with the variable XDG_CACHE_HOME, or make room"
                ) from None
            LOG.info("%s cannot be written (%s)", path.parent, error.strerror)
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


def _stat(path: Path) -> os.stat_result:
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise UserError(f"there is no file {path} (task.path)") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(facts.st_mode):
        raise UserError(f"{path} is no regular file; a TSV file is needed")
    return facts


def _name(layout: Layout, max_bytes: int, facts: os.stat_result) -> str:
    state = f"{_STORE_VERSION} {facts.st_size} {facts.st_mtime_ns}"
    return f"{layout.name}-{max_bytes}-{hashlib.sha256(state.encode()).hexdigest()[:16]}"


def _cache_home(path: Path) -> Path:
    """The folder for stores of `path` in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    # The specification wants relative paths ignored.
    home = os.path.expanduser("~")
    if os.path.isabs(root):
        base = Path(root)
    elif os.path.isabs(home):
        base = Path(home, ".cache")
    else:  # a user without an entry in passwd and without HOME, as in some containers
        base = private_folder("cache") or Path(tempfile.mkdtemp(prefix="mambalab-"))
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    return base / "mambalab" / "pairs" / f"{path.name}-{digest}.store"


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


def _make(
    path: Path, facts: os.stat_result, layout: Layout, max_bytes: int, home: Path
) -> PairStore:
    """Convert `path` into a store in `home`, whose lock is held."""
    name = _name(layout, max_bytes, facts)
    for old in home.glob(f"{_UNFINISHED}*"):  # of a process that was killed
        shutil.rmtree(old, ignore_errors=True)
    unfinished = home / f"{_UNFINISHED}{os.getpid()}-{time.monotonic_ns()}"
    unfinished.mkdir()
    try:
        LOG.info("converting %s (%s) once, into %s", path, human_bytes(facts.st_size), home)
        with _open(path) as file:
            _convert(file, path, layout, max_bytes, unfinished)
            after = os.fstat(file.fileno())
        if _name(layout, max_bytes, after) != name:
            raise UserError(f"{path} changed while it was read: start again when it is complete")
        shutil.rmtree(home / name, ignore_errors=True)  # damaged, or it would have been used
        os.rename(unfinished, home / name)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    # Stores of earlier versions of the file; whoever is reading one keeps it open.
    for old in home.glob(f"{layout.name}-{max_bytes}-*"):
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)
    store = PairStore(home / name, path)
    if store.rejected:
        LOG.warning("%s", _summary(store))
    return store


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb", buffering=_IO_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _convert(file: BinaryIO, path: Path, layout: Layout, max_bytes: int, folder: Path) -> None:
    """Write the three files of a store: one pass, a line in memory at a time."""
    started = time.monotonic()
    digest = hashlib.sha256()
    offsets, labels, known = array("q", [0]), array("h"), dict(layout.labels)
    digests = array("Q")
    buffer, end, number = bytearray(), 0, 0
    with (
        open(folder / "documents.bin", "wb", buffering=0) as documents,
        open(folder / "rejected.txt", "w", encoding="utf-8", errors="backslashreplace") as rejected,
    ):
        left_out, quoted, reason, separator = 0, 0, None, ""

        def flush() -> None:
            digest.update(buffer)
            _write_all(documents, buffer)
            buffer.clear()

        for number, line in enumerate(_read(file, path), 1):
            quoted += layout.classes is None and is_quoted(line)
            try:
                label, first, second = split(line, layout)
            except BadRow as error:
                left_out += 1
                reason = reason or f"line {number:,}: {error}"
                separator = separator or error.separator
                rejected.write(f"{path}:{number}: {error}\n")
                if left_out <= _MAX_REJECTED_LOGGED:
                    LOG.warning("%s, line %s: left out: %s", path, f"{number:,}", error)
                continue
            if label not in known:
                if len(known) == _MAX_CLASSES:
                    raise UserError(
                        f"{path}, line {number:,}: more than {_MAX_CLASSES:,} different labels; "
                        f"the columns must be {', '.join(layout.columns)}, separated by tabs"
                    )
                known[label] = len(known)
            labels.append(known[label])
            digests.append(duplicates.digest(first[:max_bytes], second[:max_bytes]))
            for text in (first, second):
                buffer += text[:max_bytes]
                end += min(len(text), max_bytes)
                offsets.append(end)
            if len(buffer) >= _IO_BYTES:
                flush()
        flush()
        if not labels:
            cause = (
                f": none of its {number:,} rows can be used ({reason})" if number else " is empty"
            )
            if number and (remedy := encodings.remedy(path)):
                raise UserError(f"{path}{cause}; the file {remedy}")
            remedy = rewrite_command(path, separator) if separator else ""
            raise UserError(
                f"{path}{cause}; it must hold the columns {', '.join(layout.columns)}, separated "
                f"by tabs, without a header{f', as from: {remedy}' if remedy else ''}"
            )
        os.fsync(documents.fileno())
    classes, numbers = _in_order(layout, known, np.frombuffer(labels, np.int16))
    where = np.frombuffer(offsets, np.int64)
    for part in (where, numbers):
        digest.update(part.astype(part.dtype.newbyteorder("<")).data)
    digest.update(json.dumps(classes).encode())
    about = {
        "classes": classes,
        "sha256": digest.hexdigest(),
        "lines": number,
        "rejected": left_out,
        "quoted": quoted,
        "source": str(path),
    }
    with open(folder / "index.npz", "wb") as index:
        tables = {"offsets": where, "labels": numbers, "digests": np.frombuffer(digests, np.uint64)}
        np.savez(index, **tables, about=np.array(json.dumps(about)))
        index.flush()
        os.fsync(index.fileno())
    LOG.info(
        "%s: %s pairs, %s of text, in %.1f s",
        path,
        f"{len(labels):,}",
        human_bytes(end),
        time.monotonic() - started,
    )


def _read(file: BinaryIO, path: Path) -> Iterator[bytes | None]:
    """Yield the lines of `file`; a disk that fails becomes a UserError (writing has its own)."""
    try:
        yield from lines(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _write_all(file: BinaryIO, data: bytearray) -> None:
    """Write all of `data` to an unbuffered file, which may take less than it is given."""
    with memoryview(data) as rest:
        done = 0
        while done < len(rest):
            done += file.write(rest[done:])


def _in_order(
    layout: Layout, known: dict[bytes, int], labels: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and labels (n,) int16 that are indices into them."""
    if layout.classes is not None:
        return list(layout.classes), labels
    names = [label.decode("utf-8") for label in known]  # in the order of their first rows
    classes = sorted(names)
    place = {name: number for number, name in enumerate(classes)}
    return classes, np.array([place[name] for name in names], np.int16)[labels]


def _summary(store: PairStore) -> str:
    return (
        f"{store.source}: {store.rejected:,} of {store.lines:,} rows were left out; the reasons "
        f"are in {store.folder / 'rejected.txt'}"
    )
