"""A run is killed: at any moment, at any of its steps among files, in the very end."""

import signal

from tests.faults import traps
from tests.faults.registry import kind
from tests.faults.scene import Scene

RESUMES = "the same command ends the run as if undisturbed; MLflow equals the folder"


def strike(scene: Scene, number: int) -> None:
    """Start the run and send it a signal at a random moment of its life."""
    child = scene.start()
    child.sleep(scene.rng.uniform(0, 1.1 * scene.calm.seconds))
    child.send(number)
    child.wait()


@kind("SIGKILL", RESUMES, tries=80)
def once(scene: Scene) -> None:
    """Killed at a random moment."""
    strike(scene, signal.SIGKILL)
    scene.completes()


@kind("SIGKILL, three times", RESUMES, tries=40)
def three_times(scene: Scene) -> None:
    """Killed at three random moments, the same command in between."""
    for _ in range(3):
        strike(scene, signal.SIGKILL)
    scene.completes()


@kind("SIGKILL at a file event", RESUMES, tries=160)
def at_event(scene: Scene) -> None:
    """Killed just before it opens, renames, makes or removes its k-th file; sometimes twice."""
    for _ in range(scene.rng.choice((1, 1, 2))):
        number = scene.rng.randrange(1, scene.calm.events + 1)
        scene.call(before=traps.on_event(scene.folder / "out", number, traps.die))
    scene.completes()


@kind("SIGKILL at a write", RESUMES, tries=60)
def at_write(scene: Scene) -> None:
    """The same, but only before it makes or changes a file."""
    number = scene.rng.randrange(1, scene.calm.writes + 1)
    trap = traps.on_event(scene.folder / "out", number, traps.die, writes=True)
    scene.call(before=trap)
    scene.completes()


@kind("SIGKILL in a clean-up", RESUMES, tries=30)
def in_clean_up(scene: Scene) -> None:
    """Killed while it removes the older checkpoint, or just after the newer has its name."""
    step = scene.rng.choice((10, 15, 20, 24))
    trap = traps.when_renamed(f"last-{step:08d}", scene.rng.randrange(0, 12), traps.die)
    scene.call(before=trap)
    scene.completes()


@kind("SIGKILL at the end", RESUMES, tries=40)
def at_the_end(scene: Scene) -> None:
    """Killed when the folder says FINISHED and MLflow does not know yet."""

    def arm() -> None:
        from mambalab.tracking.recorder import Recorder

        finish = Recorder.finish
        inside = scene.rng.random() < 0.5
        number = scene.rng.randrange(1, 25)

        def killed(self: Recorder, status: str) -> None:
            if status == "FINISHED":
                if not inside:
                    traps.die()
                traps.on_event(scene.folder / "out", number, traps.die)()
            finish(self, status)

        Recorder.finish = killed  # type: ignore[method-assign]

    scene.call(before=arm)
    scene.completes()
