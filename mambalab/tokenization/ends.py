"""Which tokens end a text, as the files beside a tokenizer.json say."""

from pathlib import Path
from typing import Any

from mambalab.data import hub
from mambalab.errors import UserError

CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
GENERATION = "generation_config.json"
KEY = "eos_token_id"


def named(folder: Path) -> str | None:
    """The end token as tokenizer_config.json spells it, or else special_tokens_map.json; None if
    neither names one.

    Raises:
        UserError: one of them is damaged.
    """
    for file in (CONFIG, SPECIAL_TOKENS):
        if not (folder / file).is_file():
            continue
        token: Any = hub.read_json(folder / file).get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return None


def listed(folder: Path) -> tuple[int, ...]:
    """The numbers of the end tokens in generation_config.json; none if it is absent.

    Raises:
        UserError: it is damaged, or names something else than numbers.
    """
    path = folder / GENERATION
    return numbers(hub.read_json(path).get(KEY), path) if path.is_file() else ()


def numbers(value: Any, file: Path) -> tuple[int, ...]:
    """Read an `eos_token_id`: a number, a list of numbers, or null.

    Raises:
        UserError: it is something else; names `file`.
    """
    found = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in found):
        raise UserError(
            f"{file}: {KEY}={value!r}: must be the number of a token, a list of such numbers, or "
            "null"
        )
    return tuple(dict.fromkeys(found))
