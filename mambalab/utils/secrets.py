"""Passwords in addresses: what is shown, recorded or sent goes through `hide_password`."""

import re
from urllib.parse import unquote

# `user:password@`, to the last @ of the word: a password may hold /, @ and quotes itself. A path,
# as that of sqlite:///, has no user.
_USER = re.compile(r"(://)(?!/)\S*@")
_VALUE = re.compile(r"([?&;])([^=&;?\s]+)=([^&\s]*)")
# The text is nothing but an address: blanks belong to the password, too.
_ADDRESS = re.compile(r"([\w+.-]+://)(?!/)[^@]*@(?:.*@)?([^\s@]+)", re.S)
_SECRET = re.compile(
    r"pass|pwd|secret|token|credential|signature|(^|[^a-z])(api|access|auth|private)?_?key$", re.I
)


def hide_password(text: str) -> str:
    """Return the text without what is secret in its addresses: what may be shown and recorded.

    That is `user:password@`, and the values of keys such as `?password=` and `?token=`.
    """
    if "://" not in text:
        return text
    text = _ADDRESS.sub(r"\1\2", text) if _ADDRESS.fullmatch(text) else text
    return _VALUE.sub(_without_value, _USER.sub(r"\1", text))


def _without_value(found: re.Match[str]) -> str:
    mark, key, _ = found.groups()
    return f"{mark}{key}=" if _SECRET.search(unquote(key)) else found[0]
