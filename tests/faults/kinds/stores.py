"""The MLflow store is a SQLite file, and files are locked, lost, cut and moved."""

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults import oracle
from tests.faults.registry import kind
from tests.faults.scene import Scene, promise

GOES_ON = "training goes on, the folder is as if undisturbed; afterwards `sync` is exact"


@contextlib.contextmanager
def locked(store: Path, seconds: float | None = None) -> Iterator[None]:
    """Hold the store as another program does that writes it: for some seconds, or until the end."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        database = sqlite3.connect(store, timeout=20)
        database.execute("begin immediate")
        os.write(tell, b".")
        time.sleep(600 if seconds is None else seconds)
        database.rollback()
        os._exit(0)
    os.read(ready, 1)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def whole_folder(scene: Scene) -> None:
    """The run folder equals an undisturbed one, whatever MLflow holds."""
    oracle.facts(scene.run_dir).check(scene.calm.facts)


def mended(scene: Scene) -> None:
    """The folder is whole; `sync` makes MLflow equal to it."""
    whole_folder(scene)
    scene.syncs()
    scene.equals()


@kind("store locked for seconds", GOES_ON)
def locked_for_seconds(scene: Scene) -> None:
    """Another program writes the store for 1 to 5 seconds."""
    with locked(scene.store, scene.rng.uniform(1, 5)):
        result = scene.heard(scene.call())
    scene.expect(result, 0, "with a store locked for some seconds")
    mended(scene)


@kind("store locked for good", GOES_ON + "; within 60 s")
def locked_for_good(scene: Scene) -> None:
    """Another program holds the store until after the run's end."""
    with locked(scene.store):
        result = scene.heard(scene.call())
    scene.expect(result, 0, "with a locked store")
    promise(result.seconds < 60, f"took {result.seconds:.0f} s to end beside a locked store")
    mended(scene)


@kind("store locked, SIGTERM", "status 143 within 10 s; then as if undisturbed")
def locked_and_stopped(scene: Scene) -> None:
    """The run is asked to stop while the store is locked."""
    with locked(scene.store):
        child = scene.start()
        child.sleep(scene.rng.uniform(0.2, 1.0) * scene.calm.seconds)
        asked = time.monotonic()
        child.send(signal.SIGTERM)
        result = scene.heard(child.wait())
        took = time.monotonic() - asked
    scene.expect(result, (0, 143, -15), "after SIGTERM")
    promise(took < 12, f"SIGTERM took {took:.0f} s beside a locked store")
    scene.completes()


@kind("store locked, SIGKILL", "then as if undisturbed")
def locked_and_killed(scene: Scene) -> None:
    """The run is killed while the store is locked."""
    with locked(scene.store):
        child = scene.start()
        child.sleep(scene.rng.uniform(0.2, 1.0) * scene.calm.seconds)
        child.send(signal.SIGKILL)
        child.wait()
    scene.completes()


def _lost(scene: Scene, way: str) -> None:
    """Something happens to the store of a stopped run; the same command, `sync` if need be."""
    scene.stopped()
    extra = [scene.store.with_name(f"mlflow.db{end}") for end in ("-wal", "-shm")]
    if way == "deleted":
        for path in (scene.store, *extra):
            path.unlink(missing_ok=True)
        shutil.rmtree(scene.store.with_name("mlartifacts"), ignore_errors=True)
        if scene.rng.random() < 0.7:
            shutil.copyfile(scene.template, scene.store)
    elif way == "artifacts gone":
        shutil.rmtree(scene.store.with_name("mlartifacts"), ignore_errors=True)
    else:
        data = scene.store.read_bytes()
        cut = scene.rng.randrange(200, len(data))
        for path in extra:
            path.unlink(missing_ok=True)
        scene.store.write_bytes(data[:cut] if way == "cut" else scene.rng.randbytes(9000))
    result = scene.heard(scene.call())
    if way in ("cut", "garbage"):
        if result.status:
            scene.refused(result, "store", "mlflow.db")
        for path in (scene.store, *extra):
            path.unlink(missing_ok=True)
        shutil.copyfile(scene.template, scene.store)
        if result.status:
            result = scene.call()
    scene.expect(result, 0, f"with the store {way}")
    mended(scene)


for _way in ("deleted", "cut", "garbage", "artifacts gone"):
    kind(f"store {_way}", GOES_ON)(lambda scene, way=_way: _lost(scene, way))


@kind("store deleted while running", GOES_ON)
def deleted_while_running(scene: Scene) -> None:
    """Somebody deletes the store at a random moment."""
    child = scene.start()
    child.sleep(scene.rng.uniform(0.1, 0.9) * scene.calm.seconds)
    for path in scene.store.parent.glob("mlflow.db*"):
        path.unlink(missing_ok=True)
    result = scene.heard(child.wait())
    scene.expect(result, 0, "with the store deleted")
    whole_folder(scene)
    shutil.rmtree(scene.store.with_name("mlartifacts"), ignore_errors=True)
    for path in scene.store.parent.glob("mlflow.db*"):
        path.unlink(missing_ok=True)
    shutil.copyfile(scene.template, scene.store)
    mended(scene)


@kind("output folder moved", "the same command there goes on; MLflow is mended")
def moved(scene: Scene) -> None:
    """The whole output folder, store and all, is renamed between two sittings."""
    scene.stopped()
    (scene.folder / "out").rename(scene.folder / "elsewhere")
    (scene.folder / "elsewhere").rename(scene.folder / "moved")
    result = scene.heard(scene.call("output_dir=moved"))
    scene.expect(result, 0, "in the moved folder")
    promise(not (scene.folder / "out").exists(), "something was written at the old place")
    found = [p.parent for p in scene.folder.glob("moved/*/*/*/config.yaml")]
    promise(len(found) == 1, f"{len(found)} run folders, expected one")
    oracle.facts(found[0]).check(scene.calm.facts)
    oracle.check_mlflow(found[0], scene.folder / "moved" / "mlflow.db")
