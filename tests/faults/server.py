"""The warm process: it imports and compiles everything once, then forks the tries.

Each try is a process that forks the runs in it, so that nothing of one try reaches the next.
"""

import contextlib
import ctypes
import gc
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from tests.faults import oracle, traps
from tests.faults.process import BrokenPromiseError
from tests.faults.registry import Kind
from tests.faults.scene import SECOND_SEED, VARIANTS, Scene, Undisturbed

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Outcome:
    """How one try went.

    Attributes:
        kind: of the fault.
        seed: repeats it.
        broken: the promise that was not kept, or None.
        message: what the program said.
        seconds: it took.
    """

    kind: str
    seed: int
    broken: str | None
    message: str
    seconds: float


@dataclass(frozen=True)
class World:
    """What all tries share.

    Attributes:
        folder: for the folders of the tries.
        template: an empty MLflow store.
        undisturbed: by variant.
    """

    folder: Path
    template: Path
    undisturbed: dict[str, Undisturbed]


def use_one_thread() -> None:
    """Limit every library to one thread, before it is imported: a fork has but one."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    os.environ["TQDM_MONITOR_INTERVAL"] = "0"
    os.environ["PYTHONHASHSEED"] = "0"  # for processes that a try starts


def make_world(
    folder: Path | None = None, variants: Iterable[str] = (*VARIANTS, SECOND_SEED)
) -> World:
    """Warm up: import and compile everything, and make the undisturbed runs.

    Args:
        folder: where to make the world's own folder; by default that for temporary files.
        variants: of runs that the tries may use.
    """
    import torch

    from mambalab.cli import main
    from mambalab.utils import openmp
    from tests.tracking import stores

    torch.set_num_threads(1)
    openmp.limit_openmp_spin()
    warnings.simplefilter("ignore", DeprecationWarning)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=folder)).resolve()
    folder.chmod(0o755)
    template = stores.build_template(folder / "template")
    with contextlib.closing(oracle.sqlite3.connect(template)) as database:
        database.execute("pragma wal_checkpoint(truncate)")
    here, warm = Path.cwd(), Scene(folder / "warm", random.Random(0), {}, template)
    os.chdir(warm.folder)
    with (
        open(os.devnull, "w") as null,
        contextlib.redirect_stdout(null),
        contextlib.redirect_stderr(null),
    ):
        status = main.main(warm.command())
        main.main(["sync", str(warm.run_dir), "output_dir=out"])
        main.main(["runs", "output_dir=out"])
    os.chdir(here)
    if status:
        raise SystemExit("faults: the first run failed; nothing can be tested")
    _only_one_thread()
    gc.collect()
    gc.freeze()
    world = World(folder, template, {})
    for variant in variants:
        world.undisturbed[variant] = _undisturbed(world, variant)
    return world


def _only_one_thread() -> None:
    import threading

    import tqdm.auto

    for bar in (tqdm.tqdm, tqdm.auto.tqdm):  # each class has a monitor of its own
        bar.monitor_interval = 0
        if bar.monitor is not None:
            bar.monitor.exit()
            bar.monitor = None
    names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if names:
        print(f"faults: threads beside the forking one: {', '.join(names)}", file=sys.stderr)


def _undisturbed(world: World, variant: str) -> Undisturbed:
    """Run a variant without any fault; SystemExit if it fails."""
    scene = Scene(
        world.folder / f"calm-{variant}", random.Random(0), {}, world.template, variant=variant
    )
    counts = scene.folder / "counts"
    result = scene.call(before=traps.counting(scene.folder / "out", counts))
    if result.status:
        raise SystemExit(f"faults: the undisturbed run {variant} failed: {result.output[-500:]}")
    oracle.check_mlflow(scene.run_dir, scene.store)
    events, writes = map(int, counts.read_text().split())
    return Undisturbed(oracle.facts(scene.run_dir), result.seconds, events, writes)


def play(world: World, kind: Kind, seed: int, folder: Path) -> Outcome:
    """Make one try in this process."""
    rng = random.Random(f"{kind.name}/{seed}")
    began, scene, broken = time.monotonic(), None, None
    try:
        variant = rng.choice([v for v in VARIANTS if v in world.undisturbed])
        scene = Scene(folder, rng, world.undisturbed, world.template, variant=variant)
        kind.play(scene)
    except BrokenPromiseError as error:
        broken = str(error)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "faults" in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        broken = f"{type(error).__name__}: {error} ({where})"
    message = scene.message.replace(str(folder), ".") if scene else ""
    return Outcome(kind.name, seed, broken, message, round(time.monotonic() - began, 2))


@dataclass
class _Try:
    kind: Kind
    seed: int
    folder: Path
    pid: int
    deadline: float


def run_all(
    world: World, tries: Iterable[tuple[Kind, int]], *, workers: int = 2, keep: bool = False
) -> Iterator[Outcome]:
    """Make tries, so many at a time, each in a process of its own.

    Args:
        world: from `make_world`.
        tries: kinds and seeds.
        workers: tries at a time.
        keep: leave the folder of a try that broke a promise.

    Yields:
        What came of each, in the order in which they end.
    """
    waiting, running = iter(tries), dict[int, _Try]()
    more = True
    while more or running:
        while more and len(running) < workers:
            following = next(waiting, None)
            if following is None:
                more = False
                break
            begun = _fork(world, *following)
            running[begun.pid] = begun
        for pid, begun in list(running.items()):
            ended, _ = os.waitpid(pid, os.WNOHANG)
            late = not ended and time.monotonic() > begun.deadline
            if late:
                _end_all(pid)
                os.waitpid(pid, 0)
            if ended or late:
                del running[pid]
                yield _outcome(begun, late, keep)
        time.sleep(0.005)


def _outcome(begun: _Try, late: bool, keep: bool) -> Outcome:
    answer = begun.folder.with_suffix(".json")
    if answer.exists():
        outcome = Outcome(**json.loads(answer.read_text()))
    else:
        why = f"the try took more than {begun.kind.limit:.0f} s" if late else "the try itself died"
        outcome = Outcome(begun.kind.name, begun.seed, why, "", begun.kind.limit)
    answer.unlink(missing_ok=True)
    if outcome.broken is None or not keep:
        shutil.rmtree(begun.folder, ignore_errors=True)
    return outcome


def _fork(world: World, kind: Kind, seed: int) -> _Try:
    folder = world.folder / f"{re.sub(r'[^a-zA-Z0-9]+', '-', kind.name)}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return _Try(kind, seed, folder, pid, time.monotonic() + kind.limit)
    _leave(lambda: _answer(play(world, kind, seed, folder), folder))
    raise AssertionError


def _answer(outcome: Outcome, folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(outcome)))
    partial.rename(folder.with_suffix(".json"))


def _leave(work: Callable[[], object]) -> NoReturn:
    """Do something in this forked process and end it with all that it has started."""
    try:
        os.setsid()
        with contextlib.suppress(OSError, AttributeError):  # orphans of a run come to us
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        work()
        _end_descendants(os.getpid())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    finally:
        os._exit(0)


def _end_all(pid: int) -> None:
    _end_descendants(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """All living processes that a process has started, directly or not."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = entry.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _end_descendants(pid: int) -> None:
    for _ in range(5):
        if not (found := descendants(pid)):
            return
        for child in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        if pid == os.getpid():
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        time.sleep(0.02)
