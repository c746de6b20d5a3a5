"""Every key of every verb with odd values, and odd words for `train -m`."""

import random
from collections.abc import Iterator
from typing import Any

from mambalab import config
from mambalab.cli.verbs import VERBS
from tests.faults.fuzz import odd
from tests.faults.fuzz.batch import Input
from tests.faults.scene import COMMON, ON_TEXT
from tests.lab import compose

GROUPS = (
    "task=text",
    "task=mnist",
    "task=images",
    "task=pixels",
    "task=diffusion",
    "task=pairs",
    "task=selective_copying",
)
SWEEP_WORDS = (
    *("seed=1,2", "seed=range(1,5)", "seed=range(1,5,0)", "seed=range(1,5,-1)", "seed=,", "seed="),
    *("seed=range(1,1000000)", "seed=choice(1,2)", "seed=a,range(1,3)", "seed=a,choice(1,2)"),
    *("seed=interval(0,1)", "seed=glob(*)", "model=mamba,none_such", "dropout=glob(*)", "seed=1,1"),
    *("hydra/launcher=local", "hydra/launcher=slurm", "hydra/launcher=nope", "hydra.sweep.dir=x"),
    *("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=-7", "hydra.launcher.n_jobs=x"),
    *("hydra.launcher.additional_parameters=a,b", "hydra.launcher={}", "hydra.job.num=1"),
    *("sweep.search=tpe", "sweep.search=random", "sweep.trials=0", "sweep.trials=1e9"),
    *("sweep.params={}", "sweep.params={seed: [1,2]}", "sweep.params={seed: {low: 1, high: 3}}"),
    *("sweep.params={seed: {low: 3, high: 1}}", "sweep.params={x: [1]}", "sweep.params=[1]"),
    *("sweep.params={optim.lr: {low: 0, high: 1, log: true}}", "sweep.params={seed: []}"),
    *("sweep.params={model.d_model: {low: 8, high: 64, step: 0}}", "sweep.params={a: {b: c}}"),
    *(
        "sweep.dir=/dev/null/x",
        "sweep.dir=..",
        "sweep.on_failure=x",
        "~sweep",
        "+x=1,2",
        "++seed=1",
    ),
    *("seed=sort(3,2,1)", "seed=shuffle(1,2)", "seed=int(1.5),2", "seed='1,2'", "seed=[1,2],[3]"),
    *("model=mamba,transformer", "task=text,digits", "model@x=mamba", "experiment=quickstart,"),
)


def leaves(plain: Any, prefix: str = "") -> Iterator[str]:
    """Names of all keys of a plain configuration, groups included."""
    for key, value in plain.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


def all_keys() -> list[tuple[str, tuple[str, ...], str]]:
    """Verb, words that come before, and key."""
    found = []
    for name, verb in VERBS.items():
        if verb.settings is None:
            continue
        bases = [(group,) for group in GROUPS] if name == "train" else [()]
        seen: set[str] = set()
        for base in bases:
            for key in leaves(config.to_plain(compose(name, list(base)))):
                if key not in seen:
                    seen.add(key)
                    found.append((name, base, key))
    return found


def inputs(rng: random.Random, count: int) -> list[Input]:
    """Odd values for keys, composed and shown; as evenly over the keys as the count allows."""
    pairs = [(one, word) for one in all_keys() for word in odd.WORDS]
    rng.shuffle(pairs)
    found = []
    for (verb, base, key), word in pairs[:count]:
        command = (verb, *base, f"{key}={word}", "--cfg", "job")
        found.append(Input("keys, composed", f"{verb} {key}={word[:30]!r}", (command,)))
    return found


def multirun(rng: random.Random, count: int) -> list[Input]:
    """Words of `train -m`: its grammar, launchers and search, two or three together."""
    found = []
    for _ in range(count):
        words = rng.sample(SWEEP_WORDS, rng.choice((1, 2, 3)))
        if rng.random() < 0.3:
            words.append(f"seed={rng.choice(odd.WORDS)},{rng.choice(odd.WORDS)}")
        command = ("train", "-m", *words, "--cfg", "job")
        found.append(Input("train -m, composed", " ".join(words)[:90], (command,)))
    return found


def trained(rng: random.Random, count: int) -> list[Input]:
    """Odd values that may be accepted, with a run of two steps."""
    keys = [key for verb, base, key in all_keys() if verb == "train" and base == ("task=text",)]
    left_out = ("trainer.compile", "trainer.max_steps", "tracking", "sweep", "data_dir", "device")
    keys = [key for key in keys if not key.startswith(left_out)]
    words = (
        "0",
        "1",
        "2",
        "3",
        "7",
        "0.5",
        "1e-30",
        "1e30",
        "null",
        "true",
        "auto",
        "[]",
        "x",
        "-1",
    )
    found = []
    for _ in range(count):
        key, word = rng.choice(keys), rng.choice(words)
        command = ["train", *ON_TEXT, *COMMON, "tracking=jsonl", "trainer.max_steps=2"]
        command += ["trainer.eval_every=2", "trainer.log_every=1", f"{key}={word}"]
        found.append(Input("keys, trained", f"{key}={word}", (tuple(command),), write_text))
    return found


def write_text(place: Any) -> None:
    """A small text to train on."""
    from tests.lab import TEXT

    (place / "text.txt").write_text(TEXT[:4000])
