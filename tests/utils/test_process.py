import os
import subprocess
import sys

from mambalab.utils import process


def test_this_process_lives():
    assert process.alive(process.identity()) is True
    assert process.alive({k: str(v) for k, v in process.identity().items()}) is True


def test_a_dead_process_is_known_even_before_its_parent_looks():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    record = {"host": process.identity()["host"], "pid": child.pid}
    if sys.platform == "linux":
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # leaves it a zombie
        assert process.alive(record) is False
    child.wait()
    assert process.alive(record) is False


def test_a_pid_used_again_is_not_the_old_process():
    me = process.identity()
    assert process.alive({**me, "born": str(int(me["born"] or 1) + 1)}) is (not me["born"])


def test_what_cannot_be_known_here():
    me = process.identity()
    assert process.alive({**me, "host": "elsewhere"}) is None
    assert process.alive({}) is None
    assert process.alive({"host": me["host"]}) is None
    assert process.alive({**me, "pid": "x"}) is None
    assert process.alive({**me, "pid": -1}) is None
