import errno
import fcntl
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from mambalab.utils import locks
from mambalab.utils.locks import InUseError, itself_locked, locked, locked_folder

HOLD = (
    "import sys, time; from pathlib import Path; from mambalab.utils.locks import locked_folder\n"
    "with locked_folder(Path(sys.argv[1]), 'holding'): print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `tmp_path`/held."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "held")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with child.stdout as output:
        assert output.readline() == "held\n"
        yield child
        child.kill()
        child.wait()


def test_who_may_not_wait_is_refused_until_the_holder_dies(tmp_path, holder):
    lock = tmp_path / "held" / locks.LOCK
    with pytest.raises(InUseError), locked(lock, wait=False):
        pass
    holder.kill()
    holder.wait()
    with locked(lock, wait=False):
        pass
    assert lock.exists()


def test_who_waits_says_so_once_and_gets_the_lock_of_a_killed_process(
    tmp_path, holder, caplog, monkeypatch
):
    monkeypatch.setattr(locks.LOG, "filters", [lambda record: holder.kill() or True])
    with caplog.at_level(logging.INFO), locked_folder(tmp_path / "held", "holding"):
        pass
    assert caplog.messages == ["another process is holding; waiting for it"]
    assert not list((tmp_path / "held").iterdir())  # the folder was there before


def test_waiting_without_a_name_is_silent(tmp_path, holder, caplog):
    threading.Timer(0.3, holder.kill).start()
    with locked(tmp_path / "held" / locks.LOCK, wait=True):
        pass
    assert caplog.messages == []


def test_a_folder_leaves_no_trace_unless_something_came_to_be(tmp_path):
    with locked_folder(tmp_path / "a" / "b", "working"):
        assert (tmp_path / "a" / "b" / locks.LOCK).exists()
    assert not (tmp_path / "a").exists()
    with locked_folder(tmp_path / "a" / "b", "working"):
        (tmp_path / "a" / "b" / "file").touch()
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_many_take_turns_though_each_clears_up_behind_itself(tmp_path):
    # Lock file and folder go with each holder, so the others wait for what is gone in a moment.
    inside, most = [], []

    def work() -> None:
        for _ in range(5):
            with locked_folder(tmp_path / "a" / "b", "working"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
    assert not list(tmp_path.rglob(locks.LOCK))


def test_a_folder_that_goes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    # mkdir finds the folder, and it is gone when pathlib looks whether it is one.
    def gone(*_: object) -> None:
        monkeypatch.undo()
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "mkdir", gone)
    with locked_folder(tmp_path / "a", "working"):
        assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_announced_once(tmp_path, monkeypatch, caplog, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / locks.LOCK
    for _ in range(2):
        with locked(path, wait=False):
            pass
    (line,) = caplog.messages
    assert line == f"no lock on {path} ({os.strerror(code)}): start one process at a time"
    with locked_folder(tmp_path / "a", "working"):  # no marker that a kill would leave behind
        pass
    assert os.listdir(tmp_path) in ([], [locks.LOCK])


@pytest.mark.parametrize("code", [errno.EBADF, errno.EOPNOTSUPP])  # NFS; others
def test_a_folder_that_cannot_be_locked_itself_is_announced_once(
    tmp_path, monkeypatch, caplog, code
):
    flock = fcntl.flock

    def refuse(descriptor: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with locked(tmp_path / locks.LOCK, wait=False), itself_locked(tmp_path):
            pass
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path} itself cannot be locked ({os.strerror(code)})")


def test_other_troubles_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "no" / "lock", wait=True):
        pass
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked_folder(tmp_path / "file" / "x", "working"):
        pass
    with pytest.raises(ZeroDivisionError), locked_folder(tmp_path / "x", "working"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["file"]
