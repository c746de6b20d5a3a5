"""Run folders, sweep folders and pretrained folders that are damaged, given to every verb."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.faults.fuzz import odd
from tests.faults.fuzz.batch import Input
from tests.faults.scene import STEPS, Scene
from tests.faults.server import World
from tests.faults.zygote import fork_jobs

TINY_SWEEP = ("-m", "seed=1,2", "hydra/launcher=local", "sweep.dir=out/sweep")


@dataclass(frozen=True)
class Templates:
    """Whole folders to damage.

    Attributes:
        stopped: a working directory with a run that is half done, at `run`.
        finished: the same, done.
        sweep: a working directory with a sweep, at `out/sweep`.
        pretrained: a working directory with exported models, at `exported` and `original`.
        command: that trains the run.
        sweep_command: that trains the sweep.
    """

    stopped: Path
    finished: Path
    sweep: Path
    pretrained: Path
    command: tuple[str, ...]
    sweep_command: tuple[str, ...]


def make_templates(world: World) -> Templates:
    """Train what is to be damaged; SystemExit if that fails."""
    scenes = {}
    for name in ("stopped", "finished", "sweep"):
        scene = Scene(world.folder / name, random.Random(0), {}, world.template)
        scene.tracking = ["tracking=jsonl"]
        scenes[name] = scene
        if name != "sweep":
            scene.explicit = Path("run")
    scenes["stopped"].stop_after(10, events=4)
    whole = scenes["finished"]
    results = [whole.call()]
    for target in ("hf", "original"):
        words = ["export", "run=run", f"to={target}", f"out={target}"]
        results.append(whole.call(argv=words))
    results.append(scenes["sweep"].start(None, fork_jobs, *TINY_SWEEP).wait())
    for result in results:
        if result.status:
            raise SystemExit(f"fuzz: a template failed: {result.output[-600:]}")
    pretrained = world.folder / "pretrained"
    for target in ("hf", "original"):
        shutil.move(whole.folder / target, pretrained / target)
    return Templates(
        scenes["stopped"].folder,
        whole.folder,
        scenes["sweep"].folder,
        pretrained,
        tuple(whole.command()),
        tuple(scenes["sweep"].command(*TINY_SWEEP)),
    )


def runs(templates: Templates, rng: random.Random, count: int) -> list[Input]:
    """A file of a run folder is damaged; training goes on, or other verbs read it."""
    verbs = (
        templates.command,
        ("eval", "run=run", "device=cpu"),
        ("generate", "run=run", "max_new_tokens=3", "device=cpu"),
        ("runs", "output_dir=."),
        ("compare", "run"),
        ("report", "run", "out=page.html"),
        ("sync", "run", "output_dir=."),
        ("export", "run=run", "out=exported"),
        ("inspect", "run=run", "text=Line", "out=page"),
        (*templates.command, f"trainer.max_steps={STEPS + 2}"),
    )
    found = []
    for _ in range(count):
        source = rng.choice((templates.stopped, templates.finished))
        found.append(_damaged("run folders", source, "run", verbs, rng.randrange(2**32)))
    return found


def sweeps(templates: Templates, rng: random.Random, count: int) -> list[Input]:
    """A file of a sweep folder is damaged."""
    verbs = (
        (*templates.sweep_command, "--cfg", "job"),
        ("runs", "output_dir=out"),
        ("compare", "out/sweep"),
        ("compare", "latest", "output_dir=out"),
        ("report", "out/sweep", "out=page.html"),
        ("sync", "out/sweep", "output_dir=out"),
        templates.sweep_command,
    )
    return [
        _damaged("sweep folders", templates.sweep, "out/sweep", verbs, rng.randrange(2**32))
        for _ in range(count)
    ]


def pretrained(templates: Templates, rng: random.Random, count: int) -> list[Input]:
    """A file of an exported model is damaged."""
    found = []
    for _ in range(count):
        name = rng.choice(("hf", "original"))
        verbs = (
            ("generate", f"pretrained={name}", "max_new_tokens=3", "prompt=Line", "device=cpu"),
            ("inspect", f"pretrained={name}", "text=Line", "out=page"),
        )
        seed = rng.randrange(2**32)
        found.append(_damaged("pretrained folders", templates.pretrained, name, verbs, seed))
    return found


def _damaged(
    family: str, source: Path, inside: str, verbs: tuple[tuple[str, ...], ...], seed: int
) -> Input:
    own = random.Random(seed)
    commands = tuple(own.sample(verbs, 2 if len(verbs) > 2 else 1))

    def prepare(place: Path) -> None:
        shutil.copytree(source, place, dirs_exist_ok=True, symlinks=True)
        files = sorted(p for p in (place / inside).rglob("*") if p.is_file() and p.name != ".lock")
        small = [p for p in files if p.suffix in (".json", ".yaml", ".jsonl")]
        for _ in range(own.choice((1, 1, 2))):
            path = own.choice(small if own.random() < 0.6 and small else files)
            if path.is_file():
                try:
                    odd.spoil(path, own)
                except (ValueError, yaml.YAMLError):  # damaged already: no JSON, no YAML any more
                    path.write_bytes(b"")

    return Input(family, f"folder {seed}", commands, prepare)
