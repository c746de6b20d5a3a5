"""The disk is full, or the right to write is lost: one line, and nothing of what was saved."""

import errno
import os
import resource
import stat
from pathlib import Path

from tests.faults import small_disk, traps
from tests.faults.process import Result
from tests.faults.registry import kind
from tests.faults.scene import Scene, promise

ONE_LINE = "one line, status 1, or it ends well; then the same command ends the run as undisturbed"
AMPLE = 64_000_000


def one_line(scene: Scene, result: Result) -> None:
    """The command ended well, or failed with exactly one line of error."""
    scene.heard(result)
    if result.status:
        scene.refused(result)


@kind("disk full: small tmpfs", ONE_LINE, tries=40)
def small(scene: Scene) -> None:
    """The run folder's disk has 4 KB to 400 KB; later it has room again."""
    disk = scene.folder / "disk"
    size = int(4096 * 100 ** scene.rng.random())
    scene.explicit = disk / "run"
    if not small_disk.mount(disk, size):
        code = errno.ENOSPC  # no mounts here: the writes that Python sees fail instead
        disk.mkdir(exist_ok=True)
        trap = traps.failing_from(disk, scene.rng.randrange(1, scene.calm.writes), code)
        one_line(scene, scene.call(before=trap))
    else:
        one_line(scene, scene.call())
        small_disk.resize(disk, AMPLE)
    scene.completes()


@kind("disk full: filled while running", ONE_LINE, tries=30)
def filled(scene: Scene) -> None:
    """Another program fills the run folder's disk at a random moment."""
    disk = scene.folder / "disk"
    promise(small_disk.mount(disk, 1_000_000), "no tmpfs can be mounted here: not tested")
    scene.explicit = disk / "run"
    child = scene.start()
    child.sleep(scene.rng.uniform(0, scene.calm.seconds))
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
    one_line(scene, child.wait())
    filler.unlink()
    scene.completes()


@kind("disk full: the store's", "training goes on, said in one line; `sync` mends it")
def store_full(scene: Scene) -> None:
    """The disk of the MLflow store has little room."""
    disk = scene.folder / "out"
    data = scene.store.read_bytes()
    size = len(data) + int(8192 * 30 ** scene.rng.random())
    promise(small_disk.mount(disk, size), "no tmpfs can be mounted here: not tested")
    scene.store.write_bytes(data)
    scene.explicit = scene.folder / "run"
    scene.expect(scene.heard(scene.call()), 0, "with the store's disk full")
    small_disk.resize(disk, AMPLE)
    scene.syncs()
    scene.equals()


@kind("disk full: ENOSPC at the k-th write", ONE_LINE, tries=40)
def no_space(scene: Scene) -> None:
    """From the k-th write on nothing can be opened for writing, made or renamed."""
    _injected(scene, errno.ENOSPC)


@kind("rights lost: EACCES at the k-th write", ONE_LINE, tries=30)
def no_access(scene: Scene) -> None:
    """From the k-th write on, or once, access is denied."""
    _injected(scene, errno.EACCES)


@kind("read-only: EROFS at the k-th write", ONE_LINE, tries=30)
def read_only(scene: Scene) -> None:
    """The file system becomes read-only at the k-th write, for good or once."""
    _injected(scene, errno.EROFS)


@kind("EIO at the k-th write", ONE_LINE)
def io_error(scene: Scene) -> None:
    """The disk or network file system fails."""
    _injected(scene, errno.EIO)


def _injected(scene: Scene, code: int) -> None:
    times = scene.rng.choice((None, None, 1))
    scene.explicit = scene.folder / "run"
    number = scene.rng.randrange(1, max(2, scene.calm.writes))
    trap = traps.failing_from(scene.explicit, number, code, times=times)
    one_line(scene, scene.call(before=trap))
    scene.completes()


@kind("file size limit", ONE_LINE)
def file_size(scene: Scene) -> None:
    """`ulimit -f`: no file may grow beyond 8 to 80 KB."""
    size = int(8000 * 10 ** scene.rng.random())
    one_line(
        scene,
        scene.call(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))),
    )
    scene.completes()


@kind("folder becomes read-only", ONE_LINE)
def locked_out(scene: Scene) -> None:
    """Somebody takes the right to write away while the run works; root runs as `nobody`."""
    scene.choose_text()  # all imported already
    nobody = 65534 if os.getuid() == 0 else None
    scene.explicit = scene.folder / "run"
    if nobody is not None:
        for path in (scene.folder, *scene.folder.rglob("*")):
            os.chown(path, nobody, nobody)

    def become_nobody() -> None:
        os.umask(0o022)
        os.environ["HOME"] = str(scene.folder)
        if nobody is not None:
            os.setgroups([])
            os.setresgid(nobody, nobody, nobody)
            os.setresuid(nobody, nobody, nobody)

    child = scene.start(None, become_nobody)
    child.sleep(scene.rng.uniform(0.1, 0.9) * scene.calm.seconds)
    modes: dict[Path, int] = {}
    for path in (p for p in (scene.explicit, *scene.explicit.rglob("*")) if p.is_dir()):
        modes[path] = stat.S_IMODE(path.stat().st_mode)
        path.chmod(0o555)
    result = child.wait()
    for path, mode in modes.items():
        if path.exists():
            path.chmod(mode)
    one_line(scene, result)
    scene.expect(scene.call(before=become_nobody), 0, "the same command again")
    scene.equals()
