import contextlib
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mambalab.cli import main
from mambalab.utils import streams

ROOT = Path(__file__).parents[2]


class Failing(io.StringIO):
    """A stream that takes nothing: a full disk, a terminal that has gone."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EPIPE])
def test_messages_that_cannot_be_written_stop_nothing(number, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Failing(number))
    with streams.lenient():
        print("a message", file=sys.stderr, flush=True)
    assert isinstance(sys.stderr, Failing)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_results_that_cannot_be_written_are_one_line(number, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Failing(number))
    assert main.main(["--version"]) == 1
    line = capsys.readouterr().err
    why = f"standard output cannot be written: {os.strerror(number)}; send it elsewhere"
    assert line == f"mambalab: error: {why}\n"


def test_a_result_that_nobody_missed_is_told_at_the_end(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Failing(errno.ENOSPC))

    @streams.lenient()
    def sweep() -> None:
        with contextlib.suppress(OSError):  # its jobs go on
            print("a table")

    with pytest.raises(streams.BrokenOutputError):
        sweep()


@pytest.mark.parametrize(
    ("argv", "status", "seen"), [(["runs"], 143, 143), (["__job"], 0, 0), (["runs"], 0, 1)]
)
def test_the_status_of_a_run_that_was_stopped_stays(argv, status, seen, monkeypatch):
    def dispatch(argv: list[str]) -> int:
        with contextlib.suppress(OSError):
            print("a table")
        return status

    monkeypatch.setattr(main, "dispatch", dispatch)
    monkeypatch.setattr(sys, "stdout", Failing(errno.EIO))
    assert main.main(argv) == seen


def test_what_the_encoding_lacks_is_written_as_what_looks_alike(monkeypatch):
    screen = io.TextIOWrapper(data := io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    with streams.lenient():
        print("1.5 ± 0.1 … 猫 \udcff")
    assert data.getvalue() == b"1.5 +- 0.1 ... ? ?\n"


def shell(command: str, **env: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, **env}
    line = f'"$PYTHON" -m mambalab {command}'
    return subprocess.run(["sh", "-c", line], env=env, capture_output=True, timeout=300)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("where", "status", "lines"),
    [(">&-", 0, 0), (">&- 2>&- <&-", 0, 0), (">/dev/full", 1, 1), (">/dev/full 2>&1", 1, 0)],
)
def test_standard_output_closed_or_full(where, status, lines, unbuffered):
    done = shell(f"--version {where}", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr.count(b"\n")) == (status, lines)


def test_no_file_gets_the_number_of_a_closed_stream():
    code = (
        "from mambalab.utils import streams; import os\n"
        "with streams.lenient():\n"
        "    os._exit(os.open('/dev/null', os.O_RDONLY) > 2 and os.get_inheritable(1))"
    )
    command = ["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=env, timeout=300).returncode == 1


@pytest.mark.parametrize(("closed", "kept"), [(">&-", 1), ("<&- >&-", 0)])
def test_a_file_that_has_the_number_of_a_closed_stream_keeps_it(closed, kept):
    code = (
        "from mambalab.utils import streams; import os\n"
        "first = os.open('.', os.O_RDONLY)\n"
        "whose = os.fstat(first).st_ino\n"
        "with streams.lenient():\n"
        "    print('lost', flush=True)\n"
        "others = [n for n in range(3) if n != first]\n"
        f"right = first == {kept} and os.fstat(first).st_ino == whose\n"
        "os._exit(0 if right and all(map(os.get_inheritable, others)) else 1)"
    )
    command = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=env, timeout=300).returncode == 0


def test_a_terminal_that_is_not_utf8():
    done = shell("nonsenseé", PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert done.returncode == 2
    assert done.stderr.startswith(b"mambalab: error: nonsense?: no such verb")
