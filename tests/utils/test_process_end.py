"""A process ends though a thread that nobody waits for hangs in a library."""

import subprocess
import sys

import pytest

CODE = """
import sqlite3, sys, threading, time
from contextlib import closing
from mambalab.utils import process

path = sys.argv[1]
holder = sqlite3.connect(path, isolation_level=None)
holder.execute("BEGIN IMMEDIATE")
other = sqlite3.connect(path, timeout=3000, isolation_level=None, check_same_thread=False)
thread = threading.Thread(target=lambda: other.execute("BEGIN IMMEDIATE"), daemon=True)
if sys.argv[2] == "hangs":
    thread.start()
    time.sleep(0.2)
process.abandon(thread)
print("said", end="")
process.leave(143)
"""


@pytest.mark.parametrize("thread", ["hangs", "ended"])
def test_it_does_not_wait(tmp_path, thread):
    words = [sys.executable, "-c", CODE, str(tmp_path / "x.db"), thread]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (143, "said", "")
