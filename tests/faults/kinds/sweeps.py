"""Sweeps are killed, stopped, started twice; their jobs are killed, their files damaged."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

from tests.faults import damage, oracle
from tests.faults.process import Child, Result
from tests.faults.registry import kind
from tests.faults.scene import SECOND_SEED, Scene, promise
from tests.faults.zygote import fork_jobs

COMPLETES = "the same command ends all jobs as if undisturbed; MLflow equals each folder"
TWO = ["-m", "seed=1,2", "hydra/launcher=local", "hydra.launcher.n_jobs=2", "sweep.dir=out/sweep"]
SEARCH = [
    *(
        "-m",
        "sweep.search=tpe",
        "sweep.trials=3",
        "sweep.params={optim.lr: {low: 1e-3, high: 1e-2}}",
    ),
    *("hydra/launcher=local", "hydra.launcher.n_jobs=2", "sweep.dir=out/sweep"),
]


def start(scene: Scene) -> Child:
    """Start the sweep of two seeds."""
    scene.variant = "text"
    return scene.start(None, fork_jobs, *TWO)


def moment(scene: Scene, share: float = 1.3) -> float:
    """A random moment of the sweep's life, in seconds."""
    return scene.rng.uniform(0.1, share) * (1 + scene.calm.seconds)


def folders(scene: Scene) -> list[Path]:
    """The run folders of the sweep."""
    found = scene.folder.glob("out/sweep/**/config.yaml")
    return sorted(p.parent for p in found if ".old" not in str(p))


def ends(scene: Scene) -> Result:
    """The same command must end the sweep; both runs and MLflow must be whole."""
    result = scene.heard(start(scene).wait())
    scene.expect(result, 0, "the same sweep again")
    whole(scene)
    return result


def whole(scene: Scene) -> None:
    """Both runs must equal undisturbed ones, MLflow their folders."""
    found = folders(scene)
    promise(len(found) == 2, f"{len(found)} run folders for two jobs")
    for folder in found:
        seed = json.loads((folder / "summary.json").read_text())["seed"]
        calm = scene.undisturbed["text" if seed == 1 else SECOND_SEED]
        oracle.facts(folder).check(calm.facts)
        oracle.check_mlflow(folder, scene.store)
    runs = oracle.runs_in(scene.store)
    promise(len(runs) == 3, f"MLflow holds {len(runs)} runs for a sweep of two")
    wrong = [status for _, status in runs if status != "FINISHED"]
    promise(not wrong, f"MLflow says {wrong} of a finished sweep")


@kind("sweep killed", COMPLETES)
def killed(scene: Scene) -> None:
    """The sweep itself is killed -9, and started again at once."""
    child = start(scene)
    child.sleep(moment(scene))
    child.send(signal.SIGKILL)
    child.wait()
    time.sleep(scene.rng.choice((0.0, 0.0, 0.5, 2.0)))
    ends(scene)


@kind("a job of a sweep killed", "the other ends, status 1; the same command ends the rest")
def job_killed(scene: Scene) -> None:
    """One of the two jobs is killed -9."""
    child = start(scene)
    struck = False
    while child.sleep(0.02) and not struck:
        for path in scene.folder.glob("out/sweep/.jobs/*.process.json"):
            with contextlib.suppress(ValueError, KeyError, OSError):
                pid = json.loads(path.read_text())["pid"]
                child.sleep(scene.rng.uniform(0, 0.8) * scene.calm.seconds)
                os.kill(pid, signal.SIGKILL)
                struck = True
                break
    scene.expect(child.wait(), (0, 1), "after one job was killed")
    ends(scene)


def _stopped(scene: Scene, number: int, *, twice: bool = False) -> None:
    child = start(scene)
    child.sleep(moment(scene))
    child.send(number)
    if twice:
        child.sleep(scene.rng.choice((0.05, 0.3)))
        child.send(number)
    statuses = (0, 128 + number, -number, 143)  # a sweep takes SIGHUP for SIGTERM
    scene.expect(scene.heard(child.wait()), statuses, "after the signal")
    ends(scene)


kind("sweep SIGTERM", COMPLETES)(lambda scene: _stopped(scene, signal.SIGTERM))
kind("sweep SIGHUP", COMPLETES)(lambda scene: _stopped(scene, signal.SIGHUP))
kind("sweep SIGINT", COMPLETES)(lambda scene: _stopped(scene, signal.SIGINT))
kind("sweep SIGINT twice", COMPLETES)(lambda scene: _stopped(scene, signal.SIGINT, twice=True))


@kind("two sweeps in one folder", "the second is refused in one line; the first ends")
def two(scene: Scene) -> None:
    """The same sweep twice at once."""
    first = start(scene)
    first.sleep(scene.rng.choice((0.0, 0.1, 0.5)))
    second = start(scene)
    results = [first.wait(), second.wait()]
    for result in results:
        if result.status:
            scene.refused(result, "in use", "another")
    promise(0 in (results[0].status, results[1].status), "none of the two ended the sweep")
    whole(scene)


@kind("sweep.json damaged", "rebuilt, or refused with advice that leads out")
def record(scene: Scene) -> None:
    """The record of a stopped sweep is damaged in any way."""
    child = start(scene)
    child.sleep(moment(scene))
    child.send(scene.rng.choice((signal.SIGKILL, signal.SIGTERM)))
    child.wait()
    path = scene.folder / "out" / "sweep" / "sweep.json"
    if path.exists():
        damage.damage(path, scene.rng.choice(damage.WAYS), scene.rng)
    result = scene.heard(start(scene).wait())
    if result.status:
        scene.refused(result, "sweep.json")
        damage.clear(path)
        ends(scene)
    else:
        whole(scene)


def _search(scene: Scene) -> Child:
    scene.variant = "text"
    return scene.start(None, fork_jobs, *SEARCH)


@kind("search killed, journal damaged", "goes on, or one line that leads out; no hang")
def journal(scene: Scene) -> None:
    """A TPE search is killed -9, and its journal perhaps damaged."""
    child = _search(scene)
    child.sleep(moment(scene, 2.0))
    child.send(signal.SIGKILL)
    child.wait()
    path = scene.folder / "out" / "sweep" / "study.log"
    how = scene.rng.choice(("none", *damage.WAYS))
    if how != "none" and path.exists():
        damage.damage(path, how, scene.rng)
    result = scene.heard(_search(scene).wait())
    if result.status:
        scene.refused(result, "study.log", "sweep.dir", "sweep.json")
        promise(how != "none", "a search that was killed does not go on")
        return
    trained = [json.loads((f / "summary.json").read_text())["status"] for f in folders(scene)]
    promise(len(trained) >= 3, f"{len(trained)} runs for three trials")
