import hashlib
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from importlib import metadata
from pathlib import Path

import pytest

from mambalab.data import download as module
from mambalab.data.download import DownloadError, download
from mambalab.errors import UserError
from mambalab.utils.console import show_log
from tests.data.hub_server import COMMIT, Hub
from tests.overheard import overhear

FETCH = (
    "import sys; from pathlib import Path; from mambalab.data.download import download;"
    "download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], patience=3600)"
)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "set" / "file.txt"


def assert_one_line(error) -> str:
    assert isinstance(error.value, UserError)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_fetches_the_whole_file_and_leaves_nothing_else(server, target):
    download(server.url, target, sha256=sha256(server.content), size=len(server.content))
    assert target.read_bytes() == server.content
    assert os.listdir(target.parent) == ["file.txt"]
    assert server.requests == [None]


def test_progress_is_plain_lines_away_from_a_terminal(server, target, caplog):
    with caplog.at_level(logging.INFO, "mambalab"):
        download(server.url, target)
    assert caplog.messages == [
        "file.txt: fetching, 0 B of 600.0 kB",
        "file.txt: done, 600.0 kB of 600.0 kB",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_as_a_library_it_is_silent(server, target, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    download(server.url, target)
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal(server, target, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.cut = [450_000]
    with show_log():
        download(server.url, target)
    shown = capsys.readouterr().err
    assert "450k/600k" in shown
    assert "100%" in shown
    assert "file.txt: the connection was cut; continuing at 450.0 kB\n" in shown
    assert "fetching" not in shown


def test_a_file_that_is_here_is_left_alone(server, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    download(server.url, target, sha256=sha256(server.content))
    assert target.read_bytes() == b"mine"
    assert server.requests == []


def test_a_cut_connection_is_continued_at_once_after_much_progress(server, target, caplog):
    server.cut = [450_000]
    with caplog.at_level(logging.INFO, "mambalab"):
        download(server.url, target, sha256=sha256(server.content))
    assert target.read_bytes() == server.content
    assert server.requests == [None, "bytes=450000-"]
    assert [line.partition(": ")[2] for line in caplog.messages] == [
        "fetching, 0 B of 600.0 kB",
        "the connection was cut; continuing at 450.0 kB",
        "fetching, 450.0 kB of 600.0 kB",
        "done, 600.0 kB of 600.0 kB",
    ]


def test_a_cut_connection_after_little_progress_is_continued_by_the_next_call(server, target):
    server.cut = [150_000]
    with pytest.raises(DownloadError) as error:
        download(server.url, target, sha256=sha256(server.content))
    assert "cut after 150,000 bytes" in assert_one_line(error)
    assert not target.exists()
    download(server.url, target, sha256=sha256(server.content))
    assert target.read_bytes() == server.content
    assert server.requests == [None, "bytes=150000-"]
    assert os.listdir(target.parent) == ["file.txt"]


@pytest.mark.parametrize("change", ["new version", "no version", "no ranges"])
def test_bytes_of_two_versions_are_never_joined(server, target, change):
    server.etag = None if change == "no version" else '"v1"'
    server.cut = [150_000]
    with pytest.raises(DownloadError):
        download(server.url, target)
    if change == "new version":
        server.etag, server.content = '"v2"', server.content[::-1]
    server.ranges = change != "no ranges"
    download(server.url, target)
    assert target.read_bytes() == server.content


def test_a_complete_part_that_was_never_published_is_used(server, target):
    # Killed between the last byte and the rename: the server has nothing left to send (416).
    server.cut = [150_000]
    with pytest.raises(DownloadError):
        download(server.url, target)
    target.with_name("file.txt.part").write_bytes(server.content)
    download(server.url, target, sha256=sha256(server.content))
    assert target.read_bytes() == server.content


def test_damaged_earlier_bytes_are_fetched_again(server, target):
    server.cut = [150_000]
    with pytest.raises(DownloadError):
        download(server.url, target)
    target.with_name("file.txt.part").write_bytes(b"x" * 150_000)
    download(server.url, target, sha256=sha256(server.content))
    assert target.read_bytes() == server.content
    assert server.requests == [None, "bytes=150000-", None]


def test_a_wrong_checksum_is_refused_and_nothing_stays(server, target, tmp_path):
    with pytest.raises(DownloadError, match="not the expected file") as error:
        download(server.url, target, sha256=sha256(b"something else"))
    assert sha256(server.content) in assert_one_line(error)
    assert os.listdir(tmp_path) == []


def test_a_login_page_is_recognised_by_its_size_before_it_is_fetched(server, target, tmp_path):
    with pytest.raises(DownloadError, match="offers 600,000 bytes where 1,115,394") as error:
        download(server.url, target, size=1_115_394)
    assert_one_line(error)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_http_error_is_named(server, target, tmp_path, status):
    server.status = status
    with pytest.raises(DownloadError, match=f"HTTP {status} ") as error:
        download(server.url, target)
    assert server.url in assert_one_line(error)
    assert os.listdir(tmp_path) == []


def test_a_dead_port_is_named(server, target, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 refused the connection") as error:
        download(f"http://127.0.0.1:{port}/file.txt", target)
    assert_one_line(error)
    assert os.listdir(tmp_path) == []


def test_a_dead_proxy_is_named_without_its_password(server, target, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(DownloadError, match=r"the proxy 127\.0\.0\.1:9 refused") as error:
        download("http://example.invalid/file.txt", target)
    assert "secret" not in assert_one_line(error)


def test_a_server_that_never_answers_is_given_up(server, target, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/file.txt"
        with pytest.raises(DownloadError, match=r"no answer from 127\.0\.0\.1 within 0\.3 s"):
            download(url, target, patience=0.3)
    assert os.listdir(tmp_path) == []


def test_a_name_look_up_that_hangs_is_given_up(server, target, monkeypatch):
    # The system's look-up knows no timeout; a black-hole network holds it for half a minute.
    over, left = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> None:
        over.wait()
        left.set()
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        with pytest.raises(DownloadError, match=r"no answer from example\.invalid within 0\.3 s"):
            download("http://example.invalid/file.txt", target, patience=0.3)
        assert not left.is_set()
    finally:
        over.set()
        assert left.wait(300)


def test_an_unknown_host_is_named(server, target, monkeypatch):
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(DownloadError, match=r"name of example\.invalid cannot be resolved"):
        download("http://example.invalid/file.txt", target)


def test_a_server_that_falls_silent_is_given_up_and_its_bytes_are_kept(server, target):
    server.stall = 150_000
    with pytest.raises(DownloadError, match=r"nothing came for 3 s after 150,000 bytes"):
        download(server.url, target, patience=3)
    server.stall = None
    download(server.url, target, sha256=sha256(server.content))
    assert server.requests == [None, "bytes=150000-"]


def test_the_default_patience_keeps_the_promise_of_ten_seconds():
    assert module.PATIENCE_SECONDS <= 9


def test_a_full_disk_is_named_before_the_transfer(server, target, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DownloadError, match=r"disk is full: 600\.0 kB more .* 1\.0 kB are free"):
        download(server.url, target)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_on_the_way_is_named_and_the_bytes_are_kept(server, target):
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));" + FETCH
    )
    arguments = [server.url, str(target), sha256(server.content)]
    done = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True)
    assert done.returncode == 1
    assert f"cannot write {target}.part: File too large" in done.stderr.decode()
    assert target.with_name("file.txt.part").stat().st_size == 200_000
    download(server.url, target, sha256=sha256(server.content))
    assert server.requests == [None, "bytes=200000-"]


@pytest.mark.parametrize("below", ["file.txt", "set/file.txt", "a/b/c/file.txt"])
def test_a_file_where_a_folder_should_be_is_named(server, tmp_path, below):
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(DownloadError, match=r"cannot write .*: a part of this path is a file") as e:
        download(server.url, tmp_path / "data" / below)
    assert_one_line(e)
    assert server.requests == []
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that refuses files")
def test_a_folder_that_refuses_files_is_named(server):
    with pytest.raises(DownloadError, match=r"cannot write /proc/self/set/file\.txt\.part: ") as e:
        download(server.url, Path("/proc/self/set/file.txt"))
    assert_one_line(e)
    assert server.requests == []


def test_two_processes_fetch_a_file_once(server, target):
    server.gate.clear()
    command = [sys.executable, "-c", FETCH, server.url, str(target), sha256(server.content)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = "another process is fetching file.txt; waiting for it"
    said = overhear(processes, told, server.gate.set)
    assert [process.wait(300) for process in processes] == [0, 0], said
    assert target.read_bytes() == server.content
    assert server.requests == [None]
    assert os.listdir(target.parent) == ["file.txt"]
    assert "".join(said).count(told) == 1


def test_a_token_is_sent_but_not_on_to_another_host(server, target):
    hub = Hub("owner/mamba", "model", {"x": b"data"})
    try:
        hub.token, url = "secret", f"{hub.url}/owner/mamba/resolve/{COMMIT}/x"
        with pytest.raises(DownloadError, match="HTTP 401"):
            download(url, target)
        download(url, target, authorization="Bearer secret")
        assert target.read_bytes() == b"data"
        target.unlink()
        hub.elsewhere = server.url.replace("127.0.0.1", "localhost")
        download(url, target, authorization="Bearer secret")
    finally:
        hub.close()
    assert hub.tokens == [None, "Bearer secret", "Bearer secret"]
    assert server.tokens == [None]
    assert target.read_bytes() == server.content


def test_certificates_also_where_python_has_none(monkeypatch):
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):  # as the macOS installer leaves them
        monkeypatch.setenv(name, "/nonexistent")
    opener = module._opener()
    https = next(h for h in opener.handlers if isinstance(h, urllib.request.HTTPSHandler))
    assert https._context.cert_store_stats()["x509_ca"] > 50
    assert https._context.verify_mode is ssl.CERT_REQUIRED
    assert any(isinstance(h, module._TokenStaysAtHome) for h in opener.handlers)


def test_a_checkout_that_is_not_installed_fetches_too(server, target, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    download(server.url, target)
    assert target.read_bytes() == server.content


def test_a_killed_download_frees_the_lock_and_is_continued(server, target):
    server.stall = 150_000
    command = [sys.executable, "-c", FETCH, server.url, str(target), sha256(server.content)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    part = target.with_name("file.txt.part")
    deadline = time.monotonic() + 300
    while not (part.exists() and part.stat().st_size == 150_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.stall = None
    download(server.url, target, sha256=sha256(server.content))
    assert server.requests == [None, "bytes=150000-"]
    assert os.listdir(target.parent) == ["file.txt"]
