"""What differs between runs of the same task, model and dropout variant, for a list of runs."""

from collections.abc import Sequence

from mambalab.compare.groups import as_text, relevant, shown, telling
from mambalab.compare.select import ignore
from mambalab.records.reader import RunRecord
from mambalab.utils.text import short

BASE = ("task.name", "model.name", "dropout.name")  # named in any list
MAX_VALUE_CHARS = 30
# Settings without which losses cannot be told apart: of other data, or in other units.
OF_DATA = ("task.data", "task.path", "task.levels", "task.tokenizer")


def differences(records: Sequence[RunRecord]) -> list[dict[str, str]]:
    """Find the settings by which each run differs from others of its task, model and dropout.

    Seeds, and what makes no other run, are left out.

    Returns:
        For each run its values, as text, of all settings that vary among those like it, by dotted
        name.
    """
    flat = [relevant(record, ignore) for record in records]
    like: dict[tuple[str, ...], list[int]] = {}
    for i, settings in enumerate(flat):
        like.setdefault(tuple(as_text(settings, key) for key in BASE), []).append(i)
    found: list[dict[str, str]] = [{} for _ in records]
    for members in like.values():
        keys = dict.fromkeys(k for i in members for k, v in flat[i].items() if v is not None)
        for key in keys:
            texts = {i: as_text(flat[i], key) for i in members}
            if len({"null" if flat[i].get(key) is None else texts[i] for i in members}) > 1:
                for i, text in texts.items():
                    found[i][key] = text
    return found


def in_short(differing: Sequence[dict[str, str]]) -> list[str]:
    """Write as few of the differences as tell the runs apart: `lr=0.01 n_layer=4`, a text each.

    What decides which data a loss is of, is always said.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, settings in enumerate(differing):
        alike.setdefault(tuple(settings), []).append(i)
    texts = [""] * len(differing)
    for keys, members in alike.items():
        few = telling([differing[i] for i in members]) if keys else []
        chosen = [key for key in keys if key in few or key in OF_DATA]
        leaves = [key.rpartition(".")[2] for key in chosen]
        for i in members:
            words = []
            for key, leaf in zip(chosen, leaves, strict=True):
                name = leaf if leaves.count(leaf) == 1 and leaf != "name" else shown(key)
                words.append(f"{name}={short(differing[i][key], MAX_VALUE_CHARS)}")
            texts[i] = " ".join(words)
    return texts
