"""Passwords in addresses: what is shown, recorded or sent goes through `hide_password`."""

import re
from urllib.parse import unquote

# `user:password@`, to the last @ of the word: a password may hold / and @ itself. A path, as that
# of sqlite:///, has no user.
_USER = re.compile(r"(://)(?!/)[^\s'\"`]*@")
_VALUE = re.compile(r"([?&;])([^=&;?\s'\"]+)=([^&;\s'\"]*)")
_SECRET = re.compile(
    r"pass|pwd|secret|token|credential|signature|(^|[^a-z])(api|access|auth|private)?_?key$", re.I
)


def hide_password(text: str) -> str:
    """Return the text without what is secret in its addresses: what may be shown and recorded.

    That is `user:password@`, and the values of keys such as `?password=` and `?token=`.
    """
    if "://" not in text:
        return text
    return _VALUE.sub(_without_value, _USER.sub(r"\1", text))


def _without_value(found: re.Match[str]) -> str:
    mark, key, _ = found.groups()
    return f"{mark}{key}=" if _SECRET.search(unquote(key)) else found[0]
