"""A PostgreSQL server of its own in a temporary folder, for as long as a test lasts."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mambalab.errors import UserError
from mambalab.tracking.database import check_driver

USER, PASSWORD, DATABASE = "lab", "gehe/im@x", "runs"
QUOTED = "gehe%2Fim%40x"
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/bin")


def programs() -> Path | None:
    """The folder of initdb and postgres; None if there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    if found := shutil.which("postgres"):  # a link to it, perhaps, and none to initdb
        beside = Path(found).resolve().parent
        if (beside / "initdb").exists():
            return beside
    folders = (p for place in PLACES for p in Path("/").glob(place[1:]))
    return next((p for p in sorted(folders, reverse=True) if (p / "initdb").exists()), None)


def missing() -> str | None:
    """Why there can be no server here; None if there can."""
    if programs() is None:
        return "PostgreSQL is not installed"
    try:
        check_driver("postgresql://host/name")
    except UserError as error:
        return str(error)
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL refuses root, and there is no setpriv to be somebody else"
    return None


def free_port() -> int:
    """A port on this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """A server that is made, stopped and started.

    Args:
        folder: holds all of it; may be entered by everybody.
        durable: whether what is committed outlives a power cut, as people have it.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder = folder
        self.port = free_port()
        self.durable = durable
        self.uri = f"postgresql://{USER}:{QUOTED}@127.0.0.1:{self.port}/{DATABASE}"
        self.shown = f"postgresql://127.0.0.1:{self.port}/{DATABASE}"
        self._server: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Create the files of the server, start it, and make the database."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (self.folder, secret):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        options = f"-U {USER} --auth=scram-sha-256 --no-sync -E UTF8 --locale=C".split()
        subprocess.run(
            [*self._program("initdb"), "-D", self.folder / "data", *options, "--pwfile", secret],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.start()
        self.query(f"create database {DATABASE}", database="postgres")

    def start(self) -> None:
        """Start the server; returns when it answers."""
        words = ["-D", str(self.folder / "data"), "-k", str(self.folder), "-h", "127.0.0.1"]
        words += ["-p", str(self.port)]
        if not self.durable:
            words += ["-c", "fsync=off"]  # what was committed outlives the server, not the machine
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self._program("postgres"), *words], stdout=log, stderr=log
            )
        limit = time.monotonic() + 300
        while True:
            try:
                self.query("select 1", database="postgres")
                return
            except Exception:
                if time.monotonic() > limit or self._server.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """End the server at once, as a crash does: open transactions are lost."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(300)
            self._server = None

    def query(self, sql: str, *, database: str = DATABASE) -> list[tuple]:
        """Ask the database, past MLflow and past mambalab."""
        from sqlalchemy import create_engine, text
        from sqlalchemy.pool import NullPool

        uri = self.uri.removesuffix(DATABASE) + database
        engine = create_engine(uri, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            found = connection.execute(text(sql))
            return [tuple(row) for row in found] if found.returns_rows else []

    def _program(self, name: str) -> list[str]:
        folder = programs()
        assert folder is not None, missing()
        become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        return [*(become if os.geteuid() == 0 else []), str(folder / name)]


@contextmanager
def cluster(*, durable: bool = False) -> Iterator[Cluster]:
    """A running server; it and its files are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mambalab-postgres-"))
    it = Cluster(folder, durable=durable)
    try:
        it.make()
        yield it
    finally:
        it.stop()
        shutil.rmtree(folder, ignore_errors=True)
