"""Texts of a data set on the Hugging Face hub: `task.path=hf:OWNER/NAME`.

Its parquet or text files are fetched as they are, each checked against the hub's sha256, and then
read like a user's own: the library `datasets` is not needed, and what it would convert is not
converted.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mambalab.data import hub
from mambalab.data.text_sources import PARQUET
from mambalab.errors import UserError
from mambalab.utils import files
from mambalab.utils.reading import read_bytes

LOG = logging.getLogger("mambalab")
PREFIX = "hf:"
SPLITS = ("train", "val", "test")
FOLDER = "hub"
"""Below data_dir: data sets are fetched to `hub/OWNER/NAME`."""

_LISTING = ".files.json"  # in that folder: names of all files of the repository
_SPLIT_WORDS = {
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["val", "valid", "validation", "dev", "eval"], "val"),
    **dict.fromkeys(["test", "testing"], "test"),
}
_WORD = re.compile(r"[a-z]+")
_MAX_NAMED = 6  # parts or files that a message names


def is_hub(place: object) -> bool:
    """Whether a value of task.path names a data set of the hub."""
    return isinstance(place, str) and place.startswith(PREFIX)


def folder_of(place: str, data_dir: Path) -> Path:
    """The folder that a data set is fetched to, there or not."""
    return (data_dir / FOLDER / place.removeprefix(PREFIX)).absolute()


def find(
    place: str, data_dir: Path, pattern: str | None, *, chooser: str | None = "task.files"
) -> dict[str, list[Path]]:
    """Find or fetch the files of a data set; for `train`, `val` and `test` those it has, sorted.

    Files that are in `data_dir`/hub/OWNER/NAME already are used without asking the hub.

    Args:
        place: hf:OWNER/NAME.
        data_dir: folder of the data sets.
        pattern: which files, compared with their names, or with their paths in the repository if it
            has a slash; None = all that can be read.
        chooser: what the setting of the pattern is called; None = there is none.

    Raises:
        UserError: no such data set, it cannot be fetched, or which of its files are meant cannot be
            told.
    """
    name = place.removeprefix(PREFIX)
    if not hub.is_repository(name):
        raise UserError(f"task.path={place}: write hf:OWNER/NAME, as in hf:roneneldan/TinyStories")
    folder = folder_of(place, data_dir)
    here = _here(folder, pattern)
    if not here:
        address = f"{hub.endpoint()}/datasets/{name}"
        with hub.explain_failure("task.path", place, "the files", folder, address):
            listing = hub.list_files(name, "dataset")
            here = _chosen(listing.files, pattern, address)
            _by_split(here, address, chooser)  # what cannot be told apart is not fetched
            folder.mkdir(parents=True, exist_ok=True)
            files.write_text(folder / _LISTING, json.dumps(sorted(listing.files)))
            for file in here:
                listing.fetch(file, folder / file)
    parts = _by_split(here, str(folder), chooser)
    return {split: [folder / name for name in names] for split, names in parts.items()}


def _here(folder: Path, pattern: str | None) -> list[str]:
    """The chosen files that are in a folder; none if it is absent, or lacks one of them."""
    every = (path for path in folder.rglob("*") if path.is_file())
    there = {path.relative_to(folder).as_posix() for path in every}
    try:
        chosen = _chosen(map(str, json.loads(read_bytes(folder / _LISTING))), pattern, None)
    except (OSError, ValueError, TypeError):  # files put there by hand
        chosen = _chosen(there, pattern, None)
    return chosen if set(chosen) <= there else []


def _chosen(names: Iterable[str], pattern: str | None, address: str | None) -> list[str]:
    """The files to read, sorted; of a data set with parquet files only these.

    Raises:
        UserError: there are none; with an `address` only.
    """
    visible = [n for n in names if not any(p[0] in "./" for p in PurePosixPath(n).parts)]
    readable = [n for n in visible if n.lower().endswith((*PARQUET, ".txt"))]
    fitting = [
        name
        for name in readable
        if pattern is None
        or fnmatch.fnmatchcase(name if "/" in pattern else PurePosixPath(name).name, pattern)
    ]
    parquet = [name for name in fitting if name.lower().endswith(PARQUET)]
    if not fitting and address is not None:
        shown = ", ".join(sorted(readable)[:_MAX_NAMED])
        has = f"it has {shown}{', ...' * (len(readable) > _MAX_NAMED)}" if readable else "none"
        named = f" named {pattern} (task.files)" if pattern is not None else ""
        raise UserError(f"{address}: no parquet or text file{named}; {has}")
    return sorted(parquet or fitting)


def _by_split(
    names: list[str], where: str, chooser: str | None = "task.files"
) -> dict[str, list[str]]:
    """The files of each split, told by the words in their paths; all train if none says so.

    Raises:
        UserError: they are of several parts of the data set.
    """
    found: dict[str | None, list[str]] = {}
    for name in names:
        found.setdefault(_split_of(name), []).append(name)
    train = found.get("train") or found.get(None, [])
    if not train:
        raise UserError(f"{where}: none of its files is for training; {_advice(chooser, None)}")
    parts = sorted({_part(name) for name in train})
    if len(parts) > 1:
        shown = ", ".join(part or "(top)" for part in parts[:_MAX_NAMED])
        raise UserError(
            f"{where} has several parts: {shown}{', ...' * (len(parts) > _MAX_NAMED)}; "
            f"{_advice(chooser, parts[-1])}"
        )
    part = parts[0]
    chosen = {"train": train}
    for split in SPLITS[1:]:
        if same := [name for name in found.get(split, []) if _part(name) == part]:
            chosen[split] = same
    return chosen


def _advice(chooser: str | None, part: str | None) -> str:
    """What to do where it cannot be told which files are meant."""
    if chooser is None:
        return "fetch the files that you mean, and name one with task.path=FILE"
    if part is None:
        return f"choose some with {chooser}"
    return f"choose one with {chooser}, as in {chooser}='{part}/*'"


def _split_of(name: str) -> str | None:
    """The split that a path names, the file's name before its folders; None if it names none."""
    for piece in reversed(PurePosixPath(name).parts):
        for word in _WORD.findall(piece.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None


def _part(name: str) -> str:
    """The folder of a file without those that are named after a split."""
    parents = PurePosixPath(name).parts[:-1]
    return "/".join(parent for parent in parents if parent.lower() not in _SPLIT_WORDS)
