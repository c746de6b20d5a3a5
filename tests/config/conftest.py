"""An empty working directory for every test: what is written there is the user's own."""

import pytest


@pytest.fixture(autouse=True)
def workdir(tmp_path, monkeypatch):
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAMBALAB_DATA_DIR", raising=False)
    return tmp_path


@pytest.fixture
def write(workdir):
    """A function that writes a file below the working directory."""

    def write_file(path: str, text: str) -> None:
        target = workdir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    return write_file
