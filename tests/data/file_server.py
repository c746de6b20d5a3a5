"""A file server that misbehaves on request."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `content` at every address.

    Attributes:
        content, etag: the file; etag None = the server names no version.
        cut: byte counts after which the next answers' connections break, one an answer.
        status: an HTTP status to answer with instead.
        ranges: whether it can continue a file.
        stall: stop sending after this many bytes, until the server is closed.
        gate: bodies are sent once it is set, as it is at first.
        requests: the Range header of each request so far.
        tokens: the Authorization header of each.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag: str | None = '"v1"'
        self.cut: list[int] = []
        self.status = 200
        self.ranges = True
        self.stall: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.requests: list[str | None] = []
        self.tokens: list[str | None] = []
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append(self.headers.get("Range"))
                server.tokens.append(self.headers.get("Authorization"))
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
            self.gate.wait()
            request.wfile.write(body[first : min(first + step, end)])

    def close(self) -> None:
        self.closing.set()
        self.gate.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
