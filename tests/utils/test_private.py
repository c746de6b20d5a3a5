import os

import pytest

from mambalab.utils import private


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(private.tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"mambalab-cache-{os.getuid()}"


def test_the_folder_is_ones_own(folder):
    assert private.private_folder("cache") == private.private_folder("cache") == folder
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701])
def test_a_folder_that_others_can_enter_is_refused(folder, mode):
    folder.mkdir()
    folder.chmod(mode)
    assert private.private_folder("cache") is None


def test_a_link_or_a_file_in_its_place_is_refused(folder, tmp_path):
    folder.symlink_to(tmp_path)
    assert private.private_folder("cache") is None
    folder.unlink()
    folder.touch()
    assert private.private_folder("cache") is None


def test_a_folder_of_somebody_else_is_refused(folder, monkeypatch):
    folder.mkdir(mode=0o700)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    folder.rename(folder.with_name(f"mambalab-cache-{uid + 1}"))
    assert private.private_folder("cache") is None


def test_whether_there_is_a_home(monkeypatch):
    assert private.home_is_known()
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert not private.home_is_known()
