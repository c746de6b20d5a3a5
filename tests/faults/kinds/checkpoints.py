"""Checkpoints of a stopped run are damaged: the newest, or all of them."""

import os
import shutil
import signal
from pathlib import Path

from tests.faults import damage, oracle
from tests.faults.registry import kind
from tests.faults.scene import Scene, promise

FILES = ("model.safetensors", "trainer.pt", "manifest.json")


def newest_and_before(scene: Scene) -> tuple[Path, Path]:
    """Stop the run with two checkpoints to go on from; returns the newest, the one before."""
    scene.stopped(by=scene.rng.choice((signal.SIGKILL, signal.SIGTERM)))
    found = sorted((scene.run_dir / "checkpoints").glob("last-" + "[0-9]" * 8))
    # Three after a kill between writing the newest and removing the oldest.
    promise(len(found) in (2, 3), f"{len(found)} checkpoints to go on from (trainer.keep_last)")
    return found[-1], found[-2]


def _newest(scene: Scene, how: str) -> None:
    newest, before = newest_and_before(scene)
    damage.damage(newest / scene.rng.choice(FILES), how, scene.rng)
    result = scene.heard(scene.call())
    scene.expect(result, 0, "with the newest checkpoint damaged")
    step = int(before.name[-8:])
    promise(result.says(newest.name), f"not a word about the damaged {newest.name}")
    promise(
        result.says(f"from step {step}", before.name), f"does not say that it goes on from {step}"
    )
    scene.message = next((x for x in result.output.splitlines() if newest.name in x), "")
    scene.equals()


def _all(scene: Scene, how: str) -> None:
    scene.stopped()
    name = scene.rng.choice(FILES)
    for folder in (scene.run_dir / "checkpoints").glob("last-*"):
        damage.damage(folder / name, how, scene.rng)
    scene.refused(scene.call(), "checkpoint")
    promise("resume=never" in scene.message, "the way out is not named")
    scene.expect(scene.call("resume=never"), 0, "resume=never, as the message says")
    scene.equals(mlflow=False)


for _how in damage.WAYS:
    kind(
        f"newest checkpoint: {_how}",
        "the one before is used, with a word; the run ends as if undisturbed",
    )(lambda scene, how=_how: _newest(scene, how))
kind("all checkpoints damaged", "refused in one line; its advice leads to a whole run")(
    lambda scene: _all(scene, scene.rng.choice(damage.WAYS))
)


@kind("newest checkpoint deleted", "the one before is used, with a word")
def deleted(scene: Scene) -> None:
    """The newest checkpoint's folder is gone; or all are, and the run begins again."""
    newest, _ = newest_and_before(scene)
    shutil.rmtree(newest)
    scene.completes()


@kind("newest checkpoint is a file or FIFO", "the one before is used; nothing hangs")
def not_a_folder(scene: Scene) -> None:
    """Where the newest checkpoint's folder was lies something else."""
    newest, _ = newest_and_before(scene)
    shutil.rmtree(newest)
    damage.put(newest, scene.rng.choice(("file", "FIFO", "broken link", "link loop")))
    result = scene.heard(scene.call())
    scene.expect(result, 0, "with something else in the place of a checkpoint")
    scene.equals(swept=False)


@kind("best checkpoint damaged", "the run ends; the final test says it, or finds a new best")
def best(scene: Scene) -> None:
    """The best weights are damaged while the run is stopped."""
    scene.stopped()
    folder = oracle.newest(scene.run_dir, "best")
    if folder is not None:
        name = scene.rng.choice(("model.safetensors", "manifest.json"))
        damage.damage(folder / name, scene.rng.choice(damage.WAYS), scene.rng)
    result = scene.heard(scene.call())
    if result.status == 0:
        facts, calm = oracle.facts(scene.run_dir), scene.calm.facts
        promise(facts.points == calm.points, "metrics differ")
        promise(facts.last == calm.last, "the last weights differ")
    else:
        scene.refused(result, "checkpoint")


@kind("checkpoint of another run", "refused in one line: another run's weights are not its own")
def foreign(scene: Scene) -> None:
    """The checkpoints of a run with another seed are put in the place of this one's."""
    scene.stopped()
    mine = scene.run_dir
    extra = ["seed=2", "run_dir=other", "tracking=jsonl"]
    scene.expect(scene.call(*extra), 0, "the other run")
    shutil.rmtree(mine / "checkpoints")
    if scene.rng.random() < 0.5:
        shutil.copytree(scene.folder / "other" / "checkpoints", mine / "checkpoints")
    else:
        os.rename(scene.folder / "other" / "checkpoints", mine / "checkpoints")
    scene.refused(scene.call(), "another run", "other run")


@kind("checkpoint cannot be read", "one line, status 1; no advice that deletes; then it resumes")
def unreadable(scene: Scene) -> None:
    """Reading a checkpoint fails for lack of rights, memory or descriptors."""
    import errno

    from tests.faults import traps

    scene.stopped()
    code = scene.rng.choice((errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM))
    name = scene.rng.choice(FILES)

    def arm() -> None:
        import sys

        def hook(event: str, args: tuple) -> None:
            if event == "open" and str(args[0]).endswith(name) and "last-" in str(args[0]):
                traps.fail_with(code)()

        sys.addaudithook(hook)

    result = scene.call(before=arm)
    scene.refused(result)
    promise(
        not result.says("resume=never", "delete"), f"advises to delete it: {result.error[:160]}"
    )
    scene.completes()


@kind("own files in checkpoints/", "a person's files there are never deleted")
def own_files(scene: Scene) -> None:
    """Somebody keeps a copy, a note and a link among the checkpoints."""
    scene.stopped()
    folder = scene.run_dir / "checkpoints"
    newest = scene.checkpoint()
    shutil.copytree(newest, folder / "best-keep")
    (folder / "last-note.txt").write_text("good one")
    (folder / "last-link").symlink_to(scene.folder)
    shutil.copytree(newest, folder / f"last-{newest.name[-8:]}-copy")
    before = sorted(p.name for p in folder.iterdir() if not oracle_name(p))
    scene.completes()
    after = sorted(p.name for p in folder.iterdir() if not oracle_name(p))
    promise(before == after, f"deleted: {sorted(set(before) - set(after))}")


def oracle_name(path: Path) -> bool:
    """Whether the program itself gives such names to checkpoints."""
    kind_of, _, number = (
        path.name.removeprefix(".partial-").removeprefix(".removed-").partition("-")
    )
    return kind_of in ("last", "best") and len(number) == 8 and number.isdigit()
