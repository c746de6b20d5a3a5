"""A run is asked to stop, or is paused."""

import re
import signal

from tests.faults.process import Child, Result
from tests.faults.registry import kind
from tests.faults.scene import Scene, promise

RESUMES = "saved, KILLED in folder and MLflow; the same command ends the run as if undisturbed"


def begin(scene: Scene) -> Child:
    """Start the run and wait for a random moment of its life."""
    child = scene.start()
    child.sleep(scene.rng.uniform(0, 1.05 * scene.calm.seconds))
    return child


def stopped(scene: Scene, result: Result, status: int, number: int) -> None:
    """The run must have ended by the signal, or before it came; then it must go on."""
    scene.heard(result)
    scene.expect(result, (0, status, -number), "after the signal")
    scene.completes()


@kind("SIGTERM", RESUMES, tries=30)
def terminate(scene: Scene) -> None:
    """SIGTERM at a random moment."""
    child = begin(scene)
    child.send(signal.SIGTERM)
    stopped(scene, child.wait(), 143, signal.SIGTERM)


@kind("SIGINT", RESUMES, tries=30)
def interrupt(scene: Scene) -> None:
    """Ctrl-C at a random moment."""
    child = begin(scene)
    child.send(signal.SIGINT)
    stopped(scene, child.wait(), 130, signal.SIGINT)


@kind("SIGINT twice", RESUMES, tries=30)
def interrupt_twice(scene: Scene) -> None:
    """Ctrl-C, and once more a moment later."""
    child = begin(scene)
    child.send(signal.SIGINT)
    child.sleep(scene.rng.choice((0, 0.01, 0.1, 0.3)))
    child.send(signal.SIGINT)
    stopped(scene, child.wait(), 130, signal.SIGINT)


@kind("SIGHUP", RESUMES, tries=30)
def hang_up(scene: Scene) -> None:
    """The terminal is closed at a random moment."""
    child = begin(scene)
    child.send(signal.SIGHUP)
    stopped(scene, child.wait(), 129, signal.SIGHUP)


@kind("SIGHUP while training", "the run saves and stops as with SIGTERM, status 129")
def hang_up_while_training(scene: Scene) -> None:
    """The terminal is closed after a checkpoint: no step since then may be lost."""
    result = scene.heard(scene.stop_after(10, by=signal.SIGHUP))
    scene.expect(result, 129, "after SIGHUP while it trains")
    done = re.search(r"stopped by SIGHUP after step (\d+)", result.output)
    promise(done is not None, "it does not say at which step it stopped")
    assert done is not None
    promise(scene.checkpoint().name == f"last-{int(done[1]):08d}", "SIGHUP did not save that step")
    scene.completes()


@kind("SIGSTOP, SIGCONT", "the run ends as if undisturbed")
def pause(scene: Scene) -> None:
    """Ctrl-Z and `fg`, some times."""
    child = scene.start()
    for _ in range(scene.rng.randrange(1, 4)):
        child.sleep(scene.rng.uniform(0, 0.5 * scene.calm.seconds))
        child.send(signal.SIGSTOP)
        child.sleep(scene.rng.uniform(0, 0.5))
        child.send(signal.SIGCONT)
    scene.expect(child.wait(), 0, "after the pauses")
    scene.equals()
