"""The part of the Hugging Face hub that one small image data set needs, on this machine."""

import io
import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

REPOSITORY = "someone/pictures"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
    """Serves `files` (name in the repository's folder `data` -> content).

    `requests` are those so far.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = {f"data/{name}": content for name, content in files.items()}
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                length = int(self.headers.get("Content-Length") or 0)
                status, kind, body = hub.answer(urlsplit(self.path).path, self.rfile.read(length))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Repo-Commit", _COMMIT)
                if status == 404:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("ETag", f'"{abs(hash(body)):040x}"')
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and content for a path."""
        api, resolve = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/"
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": f"{len(data):040x}"}
            for name, data in self.files.items()
        ]
        if path.startswith(resolve):
            name = unquote(path.removeprefix(resolve).partition("/")[2])
            if name in self.files:
                return 200, "application/octet-stream", self.files[name]
        elif path.startswith(f"{api}/tree/"):
            if not path.endswith("/data"):
                entries = [{"type": "directory", "path": "data", "oid": "0" * 40}]
            return 200, "application/json", json.dumps(entries).encode()
        elif path.startswith(f"{api}/paths-info/"):
            wanted = [entry for entry in entries if entry["path"] in unquote(body.decode())]
            return 200, "application/json", json.dumps(wanted).encode()
        elif path in (api, f"{api}/revision/main", f"{api}/revision/{_COMMIT}"):
            names = [{"rfilename": name} for name in self.files]
            about = {"id": REPOSITORY, "sha": _COMMIT, "siblings": names, "tags": []}
            about |= {"private": False, "disabled": False, "downloads": 0, "likes": 0}
            return 200, "application/json", json.dumps(about).encode()
        return 404, "text/plain", b"not here"

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
