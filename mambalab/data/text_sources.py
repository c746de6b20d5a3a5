"""Texts of one file, of several, or of a folder, one after another in a fixed order.

Several files, and the rows of a parquet file, are documents: after each stands `END`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambalab.data.text_files import read_text
from mambalab.data.text_rows import TEXT_NAMES
from mambalab.errors import UserError, first_line

LOG = logging.getLogger("mambalab")
END = "\x03"
"""The character after each document, U+0003, end of text: one token, whatever the tokenizer."""

PARQUET = (".parquet", ".pq")
USUAL_FILES = ("*.txt", "*.md")
"""What is read of a folder."""

_MAX_NAMED = 12  # columns or names that a message names
_MAX_DEPTH = 200  # folders inside each other


@dataclass(frozen=True)
class TextSource:
    """A text and where it is from.

    Attributes:
        text: all of it, with `END` after each document if there are documents.
        digests: sha256 of each file, in their order.
        path: the file, the folder, or a JSON list of files; absolute.
    """

    text: str
    digests: tuple[str, ...]
    path: str


def digest(parts: Iterable[Sequence[str]]) -> str:
    """Join the sha256 of files to one: that of a single file is its own.

    Args:
        parts: for each split the digests of its files, in their order.
    """
    split = [list(part) for part in parts]
    if len(split) == 1 and len(split[0]) == 1:
        return split[0][0]
    return hashlib.sha256(json.dumps(split).encode()).hexdigest()


def absolute(place: str) -> Path:
    """The absolute path that a setting means."""
    return Path(os.path.expanduser(place)).absolute()


def recorded(places: str | Sequence[str]) -> str:
    """Write a setting of one or several paths as a run's record keeps it."""
    if isinstance(places, str):
        return str(absolute(places))
    return json.dumps([str(absolute(place)) for place in places])


def has_documents(places: str | Sequence[str] | None) -> bool:
    """Whether a setting means several documents: a list, a folder, or a parquet file."""
    if places is None:
        return False
    if not isinstance(places, str):
        return True
    path = absolute(places)
    return path.is_dir() or path.suffix.lower() in PARQUET


def read(
    places: str | Sequence[str],
    *,
    key: str = "task.path",
    pattern: str | None = None,
    column: str | None = None,
    ends: bool | None = None,
) -> TextSource:
    """Read the texts that a setting names.

    The files of a list are read in its order; those of a folder in the order of their paths below
    it, as text, upper case before lower case. Each file is read once.

    Args:
        places: a file, a folder, or several of them.
        key: the setting, for messages.
        pattern: which files of a folder: compared with their names, or with their paths below it if
            it has a slash; None = `USUAL_FILES`.
        column: of the texts in a parquet file; None looks for a usual name.
        ends: whether `END` stands after each document; None = `has_documents`.

    Raises:
        UserError: a file is absent, unreadable, or no text; a folder has none that fits; or a
            pattern is given for what is no folder.
    """
    every = [places] if isinstance(places, str) else list(places)
    if not every:
        raise UserError(f"{key}=[]: name at least one file")
    paths = [absolute(place) for place in every]
    if pattern is not None and not any(path.is_dir() for path in paths):
        raise UserError(f"task.files={pattern}: chooses files of a folder, but {key} names none")
    ends = has_documents(places) if ends is None else ends
    texts: list[str] = []
    digests: list[str] = []
    for path in paths:
        inside = files_of(path, key, pattern) if path.is_dir() else [path]
        for file in inside:
            if file.suffix.lower() in PARQUET:
                documents, sha256 = _rows(file, key, column)
            else:
                text, sha256 = read_text(file, key)
                documents = [text]
            digests.append(sha256)
            for document in documents:
                texts += (document, END) if ends else (document,)
            del documents
    if ends and (found := sum(text.count(END) for text in texts) - len(texts) // 2):
        LOG.warning(
            "%s: documents have %s characters U+0003 inside, which are taken for their ends",
            recorded(places) if isinstance(places, str) else key,
            f"{found:,}",
        )
    if not any(text != END for text in texts):
        raise UserError(f"{recorded(places)} ({key}) holds no text")
    return TextSource("".join(texts), tuple(digests), recorded(places))


def files_of(folder: Path, key: str, pattern: str | None) -> list[Path]:
    """The files of a folder that are to be read, in their order.

    Hidden files and folders are left out, and so are empty files and what is no file; a folder to
    which several links lead is gone through once.

    Raises:
        UserError: there is none, or the folder cannot be read.
    """
    wanted = USUAL_FILES if pattern is None else (pattern,)
    found: list[tuple[str, Path]] = []
    empty = odd = others = 0
    for name, path, facts in _walk(folder, key):
        if not any(fnmatch.fnmatchcase(name if "/" in p else path.name, p) for p in wanted):
            others += 1
        elif not stat.S_ISREG(facts.st_mode):
            odd += 1
        elif not facts.st_size:
            empty += 1
        else:
            found.append((name, path))
    what = " or ".join(wanted)
    if not found:
        there = [f"{empty:,} are empty"] * bool(empty) + [f"{odd:,} are no files"] * bool(odd)
        there += [f"{others:,} have other names"] * bool(others)
        raise UserError(
            f"{folder} ({key}): no file to read that is named {what}"
            f"{': ' + ', '.join(there) if there else ', the folder is empty'}; choose others with "
            "task.files=PATTERN, as in task.files='*.py'"
        )
    left_out = [f"{empty:,} empty"] * bool(empty) + [f"{odd:,} that are no files"] * bool(odd)
    if left_out:
        LOG.warning("%s: left out of %s: %s", folder, what, ", ".join(left_out))
    LOG.info("%s: %s files named %s", folder, f"{len(found):,}", what)
    return [path for _, path in sorted(found)]


def _walk(folder: Path, key: str) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Yield everything in a folder that is no folder itself: path below it, path, facts."""
    seen: set[tuple[int, int]] = set()
    queue = [("", folder, 0)]
    while queue:
        below, here, depth = queue.pop()
        try:
            facts = here.stat()
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"cannot read {here} ({key}): {error.strerror}") from None
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                facts = entry.stat()
            except OSError:  # a link to nothing, or to itself
                continue
            name = f"{below}{entry.name}"
            if stat.S_ISDIR(facts.st_mode):
                if depth < _MAX_DEPTH and not _is_store(entry):
                    folders.append((f"{name}/", Path(entry.path), depth + 1))
            else:
                yield name, Path(entry.path), facts
        queue += reversed(folders)  # the first of several links to a folder is its place


def _is_store(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is a table's rows as `task=classify` and `task=pairs` keep them."""
    return entry.name.endswith(".store") and any(Path(entry.path).glob("*/index.npz"))


def _rows(path: Path, key: str, column: str | None) -> tuple[list[str], str]:
    """The texts of a parquet file's rows, without those that are empty, and the file's sha256."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    documents: list[str] = []
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} ({key}) is no regular file")
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            file = pq.ParquetFile(stream)
            name = _column(file.schema_arrow, path, column)
            for batch in file.iter_batches(columns=[name]):
                documents += [text for text in batch.column(0).to_pylist() if text]
    except FileNotFoundError:
        raise UserError(f"there is no file {path} ({key})") from None
    except (pa.ArrowException, ValueError) as error:  # also text that is not UTF-8
        raise UserError(f"{path} is no parquet file, or damaged: {first_line(error)}") from None
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"cannot read {path}: {reason}") from None
    return documents, sha256


def _column(schema: Any, path: Path, given: str | None) -> str:
    """The column of the texts; raises UserError if there is none, or several may be meant."""
    import pyarrow as pa

    kinds = (pa.string(), pa.large_string())
    texts = [field.name for field in schema if field.type in kinds]
    usual = [name for name in TEXT_NAMES for there in texts if there.lower() == name]
    if given is not None and given in texts:
        return given
    if given is None and (usual or len(texts) == 1):
        chosen = usual[0] if usual else texts[0]
        return next(name for name in texts if name.lower() == chosen.lower())
    shown = ", ".join(map(repr, texts[:_MAX_NAMED])) or "none"
    wrong = "which column holds the texts?" if given is None else f"no column {given!r} of texts:"
    raise UserError(f"{path}: {wrong} There are {shown}; name one with task.column=COLUMN")
