"""The MLflow server is dead, hangs, fails or is slow; it is a small server of our own."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.faults import oracle
from tests.faults.registry import kind
from tests.faults.scene import Scene, promise

GOES_ON = "one line; training goes on, the folder is as if undisturbed; `sync` to a store is exact"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@contextlib.contextmanager
def server(way: str) -> Iterator[str]:
    """A server on this machine that answers in one way; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if way == "dead":
        listener.close()
        yield f"http://127.0.0.1:{port}"
        return
    pid = os.fork()
    if pid == 0:
        try:
            _serve(listener, way)
        finally:
            os._exit(1)
    listener.close()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _serve(listener: socket.socket, way: str) -> None:
    if way == "hung":
        time.sleep(600)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            if way == "slow":
                time.sleep(3)
            status, kind_of, body = {
                "500": (500, "application/json", json.dumps({"error_code": "INTERNAL_ERROR"})),
                "HTML": (200, "text/html", "<html><title>Log in</title></html>"),
                "403": (403, "text/plain", "no"),
                "garbage": (200, "application/json", '{"experiment": ['),
                "slow": (503, "text/plain", "later"),
            }[way]
            self.send_response(status)
            self.send_header("Content-Type", kind_of)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer, bind_and_activate=False) as running:
        running.socket.close()
        running.socket = listener
        running.server_address = listener.getsockname()[:2]
        running.serve_forever()


def direct() -> None:
    """Reach this machine's servers directly, whatever proxies it has."""
    for name in PROXIES:
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)


def _trouble(scene: Scene, way: str) -> None:
    with server(way) as address:
        scene.tracking = [f"tracking.uri={address}"]
        result = scene.heard(scene.call(before=direct))
    scene.expect(result, 0, f"with a server that is {way}")
    lines = [x for x in result.output.splitlines() if "MLflow at" in x]
    promise(len(lines) == 1, f"{len(lines)} lines about MLflow, expected one")
    scene.message = lines[0]
    oracle.facts(scene.run_dir).check(scene.calm.facts)
    scene.syncs()
    oracle.check_mlflow(scene.run_dir, scene.store)


for _way in ("dead", "hung", "500", "403", "HTML", "garbage", "slow"):
    kind(f"MLflow server: {_way}", GOES_ON)(lambda scene, way=_way: _trouble(scene, way))


@kind("MLflow server hung, SIGTERM", "status 143 within 12 s; then as if undisturbed")
def stopped(scene: Scene) -> None:
    """The run is asked to stop while the server is silent."""
    with server(scene.rng.choice(("hung", "slow"))) as address:
        scene.tracking = [f"tracking.uri={address}"]
        child = scene.start(None, direct)
        child.sleep(scene.rng.uniform(0.3, 0.9) * scene.calm.seconds)
        asked = time.monotonic()
        child.send(signal.SIGTERM)
        scene.expect(scene.heard(child.wait()), (0, 143, -15), "after SIGTERM")
        took = time.monotonic() - asked
    promise(took < 12, f"SIGTERM took {took:.0f} s beside a silent server")
    scene.tracking = []
    scene.expect(scene.call(), 0, "the same command again")
    oracle.facts(scene.run_dir).check(scene.calm.facts)
    scene.syncs()
    oracle.check_mlflow(scene.run_dir, scene.store)
