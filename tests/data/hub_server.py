"""The part of the Hugging Face hub that is needed here, on this machine; and its cache."""

import hashlib
import io
import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """(height, width, 3) uint8 as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def parquet(images: Iterable[bytes], labels: Iterable[int], image: str = "img") -> bytes:
    """A parquet file with the hub's columns."""
    cells = [{"bytes": data, "path": None} for data in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(cells, kind), "label": pa.array(labels, pa.int64())})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


class Hub:
    """Serves one repository.

    Args:
        name: owner/name.
        kind: what it holds.
        files: name -> content.

    Attributes:
        files: as given; may be changed.
        sent: name -> what is sent in place of the content, by mistake.
        token: without which nothing is given; None = public.
        elsewhere: address of a server to which requests for files are redirected.
        requests: those so far.
        tokens: the header Authorization of each.
    """

    def __init__(self, name: str, kind: str, files: dict[str, bytes]) -> None:
        self.name, self.kind, self.files = name, kind, files
        self.sent: dict[str, bytes] = {}
        self.token: str | None = None
        self.elsewhere: str | None = None
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                hub.tokens.append(self.headers.get("Authorization"))
                status, body = hub.answer(self.path, self.headers.get("Authorization"))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"{hub.elsewhere}{self.path}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        """Status and content for a path."""
        parts = urlsplit(path)
        above = "" if self.kind == "model" else f"{self.kind}s/"
        resolve = f"/{above}{self.name}/resolve/{COMMIT}/"
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, b"who are you?"
        if parts.path == f"/api/{self.kind}s/{self.name}" and "blobs" in parts.query:
            return 200, json.dumps(self.about()).encode()
        name = unquote(parts.path.removeprefix(resolve))
        if parts.path.startswith(resolve) and name in self.files:
            return (302, b"") if self.elsewhere else (200, self.sent.get(name, self.files[name]))
        return 404, b"not here"

    def about(self) -> dict:
        """What the hub says of the repository; large files (LFS) have a sha256."""
        files = []
        for name, data in self.files.items():
            found = {"rfilename": name, "size": len(data), "blobId": f"{len(data):040x}"}
            if not name.endswith((".json", ".md")):
                sha256 = hashlib.sha256(data).hexdigest()
                found["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 100}
            files.append(found)
        about = {"id": self.name, "sha": COMMIT, "siblings": files, "tags": [], "gated": False}
        return about | {"private": False, "disabled": False, "downloads": 0, "likes": 0}

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def cache(root: Path, name: str, kind: str, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    """Lay files out as Hugging Face's libraries do in their cache; returns their folder."""
    folder = root / f"{kind}s--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for file, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        for path in (blob, snapshot / file):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / file).symlink_to(blob)
    return snapshot
