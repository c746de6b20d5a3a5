"""How long a SIGTERM takes: `python -m tests.faults.stops [--tries N] [--seed S]`.

In steps that take a minute (a huge trainer.grad_accum), beside a locked MLflow store, and within a
long sample; 50 tries in all. Prints the longest time to the end of each.
"""

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import registry, report
from tests.faults.kinds.stores import locked
from tests.faults.scene import Scene, promise

BOUND_SECONDS = 10.0


def _measure(scene: Scene, *extra: str, first: float = 1.0) -> None:
    child = scene.start(None, None, *extra)
    child.sleep(first + scene.rng.uniform(0, 4))
    asked = time.monotonic()
    child.send(signal.SIGTERM)
    result = child.wait()
    took = time.monotonic() - asked
    scene.message = f"{took:.2f}"
    scene.expect(result, (143, -signal.SIGTERM), "after SIGTERM")
    promise(took < BOUND_SECONDS, f"SIGTERM took {took:.1f} s")


def in_a_step(scene: Scene) -> None:
    """A step of a minute or more, of many short batches."""
    scene.variant = "text"
    _measure(scene, "trainer.grad_accum=60000")


def in_a_batch(scene: Scene) -> None:
    """A step of a minute or more, of one long batch."""
    scene.variant = "text"
    sizes = ("task.batch_size=40", "task.seq_len=256", "model.d_model=1536", "model.n_layer=8")
    model = ("model=transformer_equal_depth", "dropout=none", "precision=fp32")
    _measure(scene, *model, *sizes, "trainer.grad_accum=1", first=8.0)  # built in some 6 s


def beside_a_locked_store(scene: Scene) -> None:
    """Another program writes the MLflow store and does not end."""
    scene.variant = "text"
    with locked(scene.store):
        _measure(scene, "trainer.max_steps=100000", "trainer.eval_every=1000")


def in_a_sample(scene: Scene) -> None:
    """A sample of 100,000 characters."""
    scene.variant = "transformer"
    _measure(scene, "trainer.sample_chars=100000", "trainer.eval_every=1", first=2.0)


PLAYS: dict[str, Callable[[Scene], None]] = {
    "SIGTERM in a step of a minute": in_a_step,
    "SIGTERM in a batch of a minute": in_a_batch,
    "SIGTERM beside a locked store": beside_a_locked_store,
    "SIGTERM in a sample": in_a_sample,
}


def main(argv: list[str] | None = None) -> int:
    """Make the tries, print the longest times; returns 1 if one took too long, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.stops", description=__doc__)
    parser.add_argument("--tries", type=int, default=50, help="in all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--out", type=Path, help="write the record there, as JSON")
    options = parser.parse_args(argv)
    from tests.faults import server

    server.use_one_thread()
    world = server.make_world(variants=("text", "transformer"))
    kinds = [
        registry.Kind(name, f"ends within {BOUND_SECONDS:.0f} s", play, 0, 240.0)
        for name, play in PLAYS.items()
    ]
    tries = [(kinds[n % len(kinds)], options.seed + n) for n in range(options.tries)]
    outcomes = list(server.run_all(world, tries))
    rows = []
    for kind in kinds:
        mine = [o for o in outcomes if o.kind == kind.name]
        seconds = [float(o.message) for o in mine if o.message]
        broken = [f"{o.broken} (seed {o.seed})" for o in mine if o.broken]
        longest = max(seconds, default=0.0)
        rows.append({"kind": kind.name, "tries": len(mine), "longest": longest, "broken": broken})
        print(f"{kind.name:32} {len(mine):3} tries, longest {longest:5.2f} s {'; '.join(broken)}")
    if options.out:
        record = {"seed": options.seed, "revision": report.revision(), "kinds": rows}
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(o.broken for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
