"""Fixtures of the tests of pairs."""

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache, in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mambalab" / "pairs"


@pytest.fixture
def place(tmp_path, cache):
    """A function that writes a file of rows, for tests with a cache of their own."""

    def write(content: bytes, name: str = "set/pairs.tsv") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write
