"""Run folders are renamed, deleted, copied, linked, and have odd names."""

import os
import shutil
import signal

from tests.faults import oracle, traps
from tests.faults.registry import kind
from tests.faults.scene import Scene, promise

OWN = "each folder is as if undisturbed, and each has an MLflow run of its own, equal to it"


@kind("folder renamed between sittings", "goes on under the new name; the same MLflow run")
def renamed(scene: Scene) -> None:
    """The run folder gets another, odd name."""
    name = scene.rng.choice(("with blank", "Überlauf", "tab\tname", "a'b", "x#y", "-dash", "😀"))
    scene.explicit = scene.folder / "first"
    scene.stopped()
    scene.explicit = scene.folder.joinpath("runs", name)
    scene.explicit.parent.mkdir()
    (scene.folder / "first").rename(scene.explicit)
    quoted = str(scene.explicit).replace("\\", "\\\\").replace("'", "\\'")
    argv = [
        f"run_dir='{quoted}'" if word.startswith("run_dir=") else word for word in scene.command()
    ]
    scene.expect(scene.heard(scene.call(argv=argv)), 0, "under another name")
    scene.equals()


def _while_running(scene: Scene, way: str) -> None:
    scene.explicit = scene.folder / "run"
    moved = scene.folder / "moved"

    def strike() -> None:
        scene.run_dir.rename(moved)  # at once: a thread that writes meanwhile would keep it alive
        if way == "deleted":
            shutil.rmtree(moved)

    step = scene.rng.choice((5, 10, 15))
    trap = traps.when_renamed(f"last-{step:08d}", scene.rng.randrange(2, 8), strike)
    result = scene.heard(scene.call(before=trap))
    promise(result.status != 0, f"the folder was {way} and the run says nothing, status 0")
    scene.refused(result)
    if way == "renamed":
        shutil.rmtree(scene.run_dir, ignore_errors=True)
        moved.rename(scene.run_dir)
    scene.completes(mlflow=way == "renamed")


kind("folder renamed while running", "noticed and said, not status 0; then as if undisturbed")(
    lambda scene: _while_running(scene, "renamed")
)
kind("folder deleted while running", "noticed and said, not status 0; the command begins anew")(
    lambda scene: _while_running(scene, "deleted")
)


def _copies(scene: Scene, way: str) -> None:
    scene.explicit = scene.folder / "run"
    copy = scene.folder / "copy"
    scene.stopped(by=scene.rng.choice((signal.SIGKILL, signal.SIGTERM)))
    shutil.copytree(scene.run_dir, copy, copy_function=os.link if way == "hard" else shutil.copy2)
    (copy / ".lock").unlink(missing_ok=True)
    other = [w.replace(str(scene.run_dir), str(copy)) for w in scene.command()]
    if way == "at once":
        both = [scene.start(), scene.start(other)]
        results = [child.wait() for child in both]
    elif scene.rng.random() < 0.5:
        results = [scene.call(), scene.call(argv=other)]
    else:
        results = [scene.call(argv=other), scene.call()]
    for result in results:
        scene.expect(scene.heard(result), 0, "one of two copies")
    for folder in (scene.run_dir, copy):
        oracle.facts(folder).check(scene.calm.facts)
        oracle.check_mlflow(folder, scene.store)
    count = len(oracle.runs_in(scene.store))
    promise(count == 2, f"{count} runs in MLflow for two folders")


for _way, _name in (("one", "one after the other"), ("at once", "at once"), ("hard", "cp -al")):
    kind(f"folder copied, both go on: {_name}", OWN)(lambda scene, way=_way: _copies(scene, way))


@kind("run folder is a link", "the run ends as if undisturbed")
def link(scene: Scene) -> None:
    """The run folder was moved to a larger disk and linked."""
    scene.explicit = scene.folder / "run"
    if scene.rng.random() < 0.5:
        (scene.folder / "disk").mkdir()
        scene.explicit.symlink_to(scene.folder / "disk")
        scene.stopped()
    else:
        scene.stopped()
        scene.explicit.rename(scene.folder / "disk")
        scene.explicit.symlink_to(scene.folder / "disk")
    scene.completes()


@kind("finished folder copied and trained on", OWN)
def trained_on(scene: Scene) -> None:
    """A copy of a finished run gets more steps; the original's record must stay as it is."""
    scene.explicit = scene.folder / "run"
    scene.expect(scene.call(), 0, "the run")
    copy = scene.folder / "copy"
    shutil.copytree(scene.run_dir, copy)
    other = [w.replace(str(scene.run_dir), str(copy)) for w in scene.command()]
    result = scene.call(argv=[*other, "trainer.max_steps=30"])
    scene.expect(scene.heard(result), 0, "the copy with more steps")
    oracle.check_mlflow(copy, scene.store)
    scene.syncs()
    oracle.facts(scene.run_dir).check(scene.calm.facts)
    oracle.check_mlflow(scene.run_dir, scene.store)
