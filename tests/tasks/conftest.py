"""A file server that misbehaves on request, and text tasks on files of a test's own."""

import contextlib
import dataclasses
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mambalab.tasks.catalog import CATALOG
from mambalab.tasks.settings import TextSettings

SETTINGS = TextSettings(
    name="text",
    _target_="mambalab.tasks.text.TextTask",
    batch_size=4,
    eval_batch_size=3,
    params={},
    path=None,
    tokenizer=None,
    seq_len=8,
    val_fraction=0.25,
)


@pytest.fixture
def settings():
    """A function from changed settings to TextSettings."""
    return lambda **changes: dataclasses.replace(SETTINGS, **changes)


@pytest.fixture
def shakespeare_dir():
    """A data_dir that really holds tiny Shakespeare; skips where there is none."""
    folder = Path(os.environ.get("MAMBALAB_DATA_DIR", "data"))
    if CATALOG["shakespeare"].missing(folder):
        pytest.skip("no tiny Shakespeare: set MAMBALAB_DATA_DIR to a folder that holds it")
    return folder


class FileServer:
    """Serves `content` at every address.

    Attributes:
        content, etag: the file; etag None = the server names no version.
        cut: byte counts after which the next answers' connections break, one an answer.
        status: an HTTP status to answer with instead.
        ranges: whether it can continue a file.
        stall: stop sending after this many bytes, until the server is closed.
        slow: seconds to wait before each quarter of the body.
        requests: the Range header of each request so far.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag: str | None = '"v1"'
        self.cut: list[int] = []
        self.status = 200
        self.ranges = True
        self.stall: int | None = None
        self.slow = 0.0
        self.requests: list[str | None] = []
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append(self.headers.get("Range"))
                self.close_connection = True
                with contextlib.suppress(OSError):  # the client may hang up: tests want it to
                    server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/file.txt"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        start, wanted = 0, request.headers.get("Range")
        same = request.headers.get("If-Range") in (None, self.etag)
        if self.status == 200 and wanted and self.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                request.send_response(416)
            else:
                request.send_response(206)
                last = len(self.content) - 1
                request.send_header("Content-Range", f"bytes {start}-{last}/{len(self.content)}")
        else:
            request.send_response(self.status)
        body = self.content[start:]
        request.send_header("Content-Length", str(len(body)))
        if self.etag:
            request.send_header("ETag", self.etag)
        request.end_headers()
        end = self.cut.pop(0) if self.cut else len(body)
        step = max(1, len(body) // 4)
        for first in range(0, end, step):
            if self.stall is not None and first >= self.stall:
                self.closing.wait()
                return
            time.sleep(self.slow)
            request.wfile.write(body[first : min(first + step, end)])

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch):
    """A FileServer with 600,000 bytes, reached directly whatever proxies the machine has."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    running = FileServer(bytes(range(1, 251)) * 2400)
    yield running
    running.close()
