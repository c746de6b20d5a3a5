"""Settings or data of a run change between two sittings, or while it runs."""

import signal

from tests.faults import traps
from tests.faults.registry import kind
from tests.faults.scene import Scene, promise
from tests.lab import TEXT

REFUSED = "refused with the reason; with the old state back the run ends as if undisturbed"


@kind("config.yaml edited", REFUSED)
def edited(scene: Scene) -> None:
    """A person edits the recorded configuration."""
    scene.stopped()
    path = scene.run_dir / "config.yaml"
    before = path.read_text()
    old, new = scene.rng.choice(
        (
            ("d_model: 16", "d_model: 32"),
            ("lr: 0.003", "lr: 0.001"),
            ("batch_size: ", "batch_size: 1"),
            ("seed: 1", "seed: 2"),
            ("eval_every: ", "eval_every: 1"),
        )
    )
    promise(old in before, f"the harness expects {old} in config.yaml")
    path.write_text(before.replace(old, new))
    scene.refused(scene.call(), "other settings", "made with", "damaged")
    path.write_text(before)
    scene.completes()


@kind("data changed between sittings", REFUSED)
def data_changed(scene: Scene) -> None:
    """The text is edited, cut, grows or is deleted."""
    scene.choose_text()
    scene.stopped(by=scene.rng.choice((signal.SIGKILL, signal.SIGTERM)))
    path = scene.folder / "text.txt"
    before = path.read_text()
    way = scene.rng.randrange(4)
    if way == 3:
        path.unlink()
    else:
        path.write_text((before.replace("fox", "cow"), before[:3000], before + TEXT[:500])[way])
    scene.refused(scene.call(), "text.txt", "data")
    path.write_text(before)
    scene.completes()


@kind("data changed while running", "the run ends as if undisturbed, or is refused later")
def data_changed_while_running(scene: Scene) -> None:
    """The text is edited in place while the run reads it."""
    scene.choose_text()
    path = scene.folder / "text.txt"
    before = path.read_text()

    def strike() -> None:
        path.write_text(before.replace("fox", "cow"))

    trap = traps.when_renamed(f"last-{scene.rng.choice((5, 10)):08d}", 2, strike)
    result = scene.heard(scene.call(before=trap))
    if result.status:
        scene.refused(result, "text.txt", "data")
        path.write_text(before)
        scene.completes()
    else:
        scene.equals()
