"""Converts a file of labelled texts into the files of a store (`pair_store`)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mambalab.data import duplicates, encodings
from mambalab.data.pair_rows import BadRow, Row, RowLayout, rewrite_command
from mambalab.data.progress import human_bytes
from mambalab.errors import UserError

LOG = logging.getLogger("mambalab")

_MAX_REJECTED_LOGGED = 10  # rejected rows that are logged one by one
_IO_BYTES = 1 << 20  # bytes written, and hashed, at a time
_MAX_CLASSES = 1000  # beyond that, the column is hardly one of labels


def convert(file: BinaryIO, path: Path, layout: RowLayout, max_bytes: int, folder: Path) -> None:
    """Write the three files of a store: one pass, a row in memory at a time.

    Args:
        file: open at its beginning.
        path: of the file, for messages.
        layout: what its rows are.
        max_bytes: where a text is cut.
        folder: for the files; there is one.

    Raises:
        UserError: the file cannot be read, or has no row that can be used, or too many labels.
        OSError: the store cannot be written.
    """
    started = time.monotonic()
    digest = hashlib.sha256()
    offsets, labels, known = array("q", [0]), array("h"), dict(layout.labels)
    digests = array("Q")
    buffer, end, rows = bytearray(), 0, 0
    with (
        open(folder / "documents.bin", "wb", buffering=0) as documents,
        open(folder / "rejected.txt", "w", encoding="utf-8", errors="backslashreplace") as rejected,
    ):
        left_out, quoted, reason, separator = 0, 0, None, ""

        def flush() -> None:
            digest.update(buffer)
            _write_all(documents, buffer)
            buffer.clear()

        for row in _read(file, path, layout):
            number = row.number
            rows += 1
            quoted += row.quoted
            if isinstance(row.found, BadRow):
                left_out += 1
                reason = reason or f"{layout.unit} {number:,}: {row.found}"
                separator = separator or row.found.separator
                rejected.write(f"{path}:{number}: {row.found}\n")
                if left_out <= _MAX_REJECTED_LOGGED:
                    where = f"{layout.unit} {number:,}"
                    LOG.warning("%s, %s: left out: %s", path, where, row.found)
                continue
            label, *texts = row.found
            if label not in known:
                if len(known) == _MAX_CLASSES:
                    raise UserError(
                        f"{path}, {layout.unit} {number:,}: more than {_MAX_CLASSES:,} different "
                        f"labels; {layout.labels_elsewhere}"
                    )
                known[label] = len(known)
            labels.append(known[label])
            digests.append(duplicates.digest(*(text[:max_bytes] for text in texts)))
            for text in texts:
                buffer += text[:max_bytes]
                end += min(len(text), max_bytes)
                offsets.append(end)
            if len(buffer) >= _IO_BYTES:
                flush()
        flush()
        if not labels:
            cause = f" {layout.empty}"
            if rows:
                cause = f": none of its {rows:,} rows can be used ({reason})"
                # A parquet file has no lines, and bytes that are no text.
                if layout.unit == "line" and (remedy := encodings.remedy(path)):
                    raise UserError(f"{path}{cause}; the file {remedy}")
            remedy = rewrite_command(path, separator) if separator else ""
            raise UserError(
                f"{path}{cause}; it must hold {layout.content}"
                f"{f', as from: {remedy}' if remedy else ''}"
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
        "lines": rows,
        "rejected": left_out,
        "quoted": quoted,
        "source": str(path),
        "texts": layout.texts,
    }
    with open(folder / "index.npz", "wb") as index:
        tables = {"offsets": where, "labels": numbers, "digests": np.frombuffer(digests, np.uint64)}
        np.savez(index, **tables, about=np.array(json.dumps(about)))
        index.flush()
        os.fsync(index.fileno())
    LOG.info(
        "%s: %s %s, %s of text, in %.1f s",
        path,
        f"{len(labels):,}",
        layout.examples,
        human_bytes(end),
        time.monotonic() - started,
    )


def _read(file: BinaryIO, path: Path, layout: RowLayout) -> Iterator[Row]:
    """Yield the rows of `file`; a disk that fails becomes a UserError (writing has its own)."""
    try:
        yield from layout.rows(file, path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _write_all(file: BinaryIO, data: bytearray) -> None:
    """Write all of `data` to an unbuffered file, which may take less than it is given."""
    with memoryview(data) as rest:
        done = 0
        while done < len(rest):
            done += file.write(rest[done:])


def _in_order(
    layout: RowLayout, known: dict[bytes, int], labels: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and labels (n,) int16 that are indices into them."""
    if layout.classes is not None:
        return list(layout.classes), labels
    names = [label.decode("utf-8") for label in known]  # in the order of their first rows
    classes = sorted(names)
    place = {name: number for number, name in enumerate(classes)}
    return classes, np.array([place[name] for name in names], np.int16)[labels]
