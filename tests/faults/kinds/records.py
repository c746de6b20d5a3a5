"""The records in a run folder are damaged: metrics.jsonl, summary.json and their neighbours."""

import signal
import time

from tests.faults import damage, oracle, traps
from tests.faults.process import BrokenPromiseError
from tests.faults.registry import kind
from tests.faults.scene import Scene, promise

LOUD = "never silent: refused in one line, or said and gone on with; nothing hangs"


def _stop(scene: Scene) -> None:
    scene.stopped(by=scene.rng.choice((signal.SIGKILL, signal.SIGTERM)))


def _metrics_lost(scene: Scene, how: str) -> None:
    """What the history lost must be said; weights and end are those of an undisturbed run."""
    _stop(scene)
    path = scene.run_dir / "metrics.jsonl"
    data = path.read_bytes()
    if how == "cut by lines":
        lines = data.splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: scene.rng.randrange(max(1, len(lines) - 2))]))
    elif how == "a line damaged":
        at = scene.rng.randrange(max(1, data.find(b"\n")))
        path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    else:
        damage.damage(path, how, scene.rng)
    result = scene.heard(scene.call())
    if result.status:
        scene.refused(result, "metrics.jsonl")
        return
    promise(result.says("metrics.jsonl"), "history is lost without a word")
    scene.message = next(
        (x for x in result.output.splitlines() if "metrics.jsonl" in x), scene.message
    )
    facts = oracle.facts(scene.run_dir)
    promise(facts.last == scene.calm.facts.last, "weights differ from an undisturbed run's")
    promise(
        all(scene.calm.facts.points.get(p) == v for p, v in facts.points.items()), "points differ"
    )


for _how in ("empty", "zero-filled", "garbage", "gone", "cut by lines", "a line damaged"):
    kind(f"metrics.jsonl between sittings: {_how}", LOUD)(
        lambda scene, how=_how: _metrics_lost(scene, how)
    )


@kind("metrics.jsonl between sittings: no file", LOUD)
def metrics_no_file(scene: Scene) -> None:
    """A folder, a FIFO or a link lies where metrics.jsonl was."""
    _stop(scene)
    path = scene.run_dir / "metrics.jsonl"
    path.unlink()
    damage.put(path, scene.rng.choice(("folder", "FIFO", "link loop", "broken link")))
    result = scene.heard(scene.call())
    scene.refused(result, "metrics.jsonl", "cannot write in", "link")


@kind("metrics.jsonl: last line cut", "the same command ends the run as if undisturbed")
def last_line_cut(scene: Scene) -> None:
    """A killed writer leaves half a line."""
    _stop(scene)
    path = scene.run_dir / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"step": 99, "train/lo'[: scene.rng.randrange(1, 22)])
    scene.completes()


@kind("metrics.jsonl deleted while running", "noticed at the next checkpoint, and said")
def deleted_while_running(scene: Scene) -> None:
    """Somebody deletes, renames or replaces metrics.jsonl while the run writes it."""
    way = scene.rng.choice(("deleted", "renamed", "replaced"))

    def strike() -> None:
        path = scene.run_dir / "metrics.jsonl"
        if way == "deleted":
            path.unlink()
        elif way == "renamed":
            path.rename(path.with_name("moved.jsonl"))
        else:
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)

    step = scene.rng.choice((5, 10, 15))
    result = scene.heard(
        scene.call(before=traps.when_renamed(f"last-{step:08d}", scene.rng.randrange(3, 9), strike))
    )
    promise(
        result.says("metrics.jsonl"), f"status {result.status} without a word about metrics.jsonl"
    )
    if result.status:
        scene.refused(result, "metrics.jsonl")


def _small_file(scene: Scene, name: str) -> None:
    """Refused with advice that leads out, or mended by itself; the data stay whole."""
    _stop(scene)
    path = scene.run_dir / name
    how = scene.rng.choice(damage.WAYS)
    damage.damage(path, how, scene.rng)
    result = scene.heard(scene.call())
    if result.status:
        scene.refused(result, name, "not a run", "not empty")
        if name == "config.yaml":  # nothing can say what it held
            promise(result.says("resume=never"), f"names no way out: {result.error[:160]}")
            scene.expect(scene.call("resume=never"), 0, "resume=never, as advised")
            scene.equals(mlflow=False)
            return
        damage.clear(path)  # the usual advice, and what people do
        result = scene.call()
        if result.status and result.says("resume=never"):
            scene.expect(scene.call("resume=never"), 0, "resume=never, as advised")
            scene.equals(mlflow=False)
            raise BrokenPromiseError(f"{name} ({how}): a run with checkpoints is given up")
        scene.expect(result, 0, f"{name} ({how}) deleted as advised")
    if name == "mlflow_run.json":  # it alone knows the old MLflow run: there may be a second
        oracle.facts(scene.run_dir).check(scene.calm.facts)
        oracle.check_mlflow(scene.run_dir, scene.store)
        return
    scene.equals(swept=how not in ("a folder", "a FIFO", "a broken link", "a link loop"))


for _name in ("summary.json", "spec.json", "train.log", "config.yaml", "mlflow_run.json"):
    kind(
        f"{_name} damaged",
        "mended by itself, or refused with advice that leads out; the run ends as if undisturbed",
        tries=30,
    )(lambda scene, name=_name: _small_file(scene, name))


@kind("finished run: summary.json damaged", "the same command, or its advice, mends the record")
def finished_summary(scene: Scene) -> None:
    """A power cut leaves an empty or half summary of a finished run."""
    scene.expect(scene.call(), 0, "the run")
    path = scene.run_dir / "summary.json"
    damage.damage(path, scene.rng.choice(("empty", "zero-filled", "truncated", "gone")), scene.rng)
    result = scene.heard(scene.call())
    if result.status:
        scene.refused(result, "summary.json")
        path.unlink(missing_ok=True)
        scene.expect(scene.call(), 0, "summary.json deleted as advised")
    oracle.facts(scene.run_dir).check(scene.calm.facts)


@kind(".lock deleted while running", "a second process does no harm; the run ends as undisturbed")
def lock_deleted(scene: Scene) -> None:
    """Somebody thinks that the lock is in the way, and starts the command again."""
    child = scene.start()
    child.sleep(scene.rng.uniform(0.2, 0.9) * scene.calm.seconds)
    for lock in scene.folder.glob("out/*/*/*/.lock"):
        lock.unlink(missing_ok=True)
    second = scene.start()
    first = child.wait()
    result = scene.heard(second.wait())
    promise(not result.says("damaged"), f"calls the running run damaged: {result.error[:160]}")
    promise(0 in (first.status, result.status) or first.error, "both ended without a word")
    scene.completes()


@kind("two processes on one folder", "exactly one trains; the other says that it is in use")
def two_processes(scene: Scene) -> None:
    """The same command twice, at the same time or a little later."""
    first = scene.start()
    time.sleep(scene.rng.choice((0.0, 0.05, 0.3, 0.8)))
    second = scene.start()
    results = [first.wait(), second.wait()]
    for result in results:
        if result.status:
            scene.refused(result, "in use", "meanwhile")
    promise(0 in (results[0].status, results[1].status), "none of the two ended the run")
    scene.equals()
