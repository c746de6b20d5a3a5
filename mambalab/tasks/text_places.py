"""Reads the texts of `task=text`: a file, several, a folder, a data set of the hub."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from mambalab.data import text_hub, text_sources
from mambalab.data.help_topics import help_topics
from mambalab.data.text_sources import END, TextSource, digest, has_documents
from mambalab.errors import UserError
from mambalab.settings.task import TextSettings

LOG = logging.getLogger("mambalab")
ALL = "the whole text is"


def may_have_test(settings: TextSettings) -> bool:
    """Whether a test split is named, or may be in the data set of the hub that is."""
    return settings.test_path is not None or text_hub.is_hub(settings.path)


def has_ends(settings: TextSettings) -> bool:
    """Whether a character stands after each document: where there may be several."""
    places = (settings.path, settings.val_path, settings.test_path)
    return any(map(has_documents, places)) or text_hub.is_hub(settings.path)


def read(settings: TextSettings) -> tuple[str, dict[str, str]]:
    """Read the text of task.path, or one of ours, and its fingerprint.

    Raises:
        UserError: it cannot be had.
    """
    if settings.path is None:
        text, source = help_topics()
        return text, {"sha256": hashlib.sha256(text.encode()).hexdigest(), "source": source}
    found = _read(settings, settings.path, "task.path")
    more = {"files": f"{len(found.digests):,}"} if has_documents(settings.path) else {}
    return found.text, {"sha256": digest([found.digests]), "path": found.path, **more}


def add_own_splits(
    settings: TextSettings, text: str, found: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Read the texts of task.val_path and task.test_path.

    Args:
        settings: of the task.
        text: that of task.path.
        found: its fingerprint.

    Returns:
        The texts of `train`, and of `val` and `test` as far as they are named; the fingerprint of
        all.

    Raises:
        UserError: one cannot be had, or task.files is given without a folder to choose from.
    """
    places = {"val_path": settings.val_path, "test_path": settings.test_path}
    every = [settings.path, *places.values()]
    if settings.files is not None and not any(map(_is_folder, every)):
        raise UserError(
            f"task.files={settings.files}: chooses files of a folder, but no folder is named with "
            "task.path"
        )
    texts, digests = {"train": text}, [[found.get("sha256", "")]]
    for key, place in places.items():
        if place is None:
            continue
        source, split = _read(settings, place, f"task.{key}"), key.removesuffix("_path")
        for other, learnt in texts.items():
            if told := _shared(source.text, learnt, has_ends(settings)):
                what = "what trains" if other == "train" else f"the {other} split"
                end = f": {split} shows no more" if told == ALL else ""
                LOG.warning("task.%s: %s also in %s%s", key, told, what, end)
        texts[split] = source.text
        digests.append(list(source.digests))
        found = found | {key: source.path}
    if len(texts) > 1:
        found = found | {"sha256": digest(digests), "splits": ", ".join(texts)}
    return texts, found


def _shared(text: str, other: str, several: bool) -> str | None:
    """Say what of a text stands in another one, word for word, and "is" or "are"; None if nothing.

    Args:
        text: that is looked for.
        other: where.
        several: whether both may be documents, each with a character behind it.
    """
    if not several:
        return ALL if text.strip() and text.strip() in other else None
    documents = {one for one in text.split(END) if one.strip()}
    found = len(documents & set(other.split(END)))
    if not found:
        return None
    if found == len(documents):
        return ALL
    return f"{found:,} of the {len(documents):,} texts {'is' if found == 1 else 'are'}"


def read_hub(settings: TextSettings, data_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Read the splits that a data set of the hub has, and their fingerprint.

    Raises:
        UserError: it cannot be had, or task.val_path or task.test_path is named beside it.
    """
    place = str(settings.path)
    for key, given in (("val_path", settings.val_path), ("test_path", settings.test_path)):
        if given is not None:
            raise UserError(f"task.{key} goes with files, not with task.path={place}: leave it out")
    texts, digests = {}, []
    for split, paths in text_hub.find(place, data_dir, settings.files).items():
        source = text_sources.read(list(map(str, paths)), column=settings.column, ends=True)
        texts[split] = source.text
        digests.append(source.digests)
    files = f"{sum(map(len, digests)):,}"
    path = str(text_hub.folder_of(place, data_dir))
    return texts, {"sha256": digest(digests), "hub": place, "path": path, "files": files}


def _read(settings: TextSettings, places: str | Sequence[str], key: str) -> TextSource:
    return text_sources.read(
        places,
        key=key,
        pattern=settings.files if _is_folder(places) else None,
        column=settings.column,
        ends=has_ends(settings),
    )


def _is_folder(places: str | Sequence[str] | None) -> bool:
    """Whether one of the paths of a setting is a folder."""
    every = [places] if isinstance(places, str) else places or []
    return any(os.path.isdir(text_sources.absolute(place)) for place in every)
