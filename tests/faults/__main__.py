"""Inject faults: `python -m tests.faults [--kind K] [--seed S] [--tries N] [--out FILE]`.

One seed decides everything that is random in a try, so kind and seed repeat it exactly, up to
what the clock of a busy machine does to random moments.
"""

import argparse
import random
import shutil
import sys
import time
from pathlib import Path

from tests.faults import registry, report
from tests.faults.registry import Kind
from tests.faults.scene import SECOND_SEED, VARIANTS


def main(argv: list[str] | None = None) -> int:
    """Make the tries, print the table; returns 1 if a promise was broken, else 0."""
    options = parse(argv)
    kinds = registry.load()
    if options.list:
        for kind in kinds.values():
            print(f"{kind.name:32} {kind.promise}")
        return 0
    unknown = [name for name in options.kind or () if name not in kinds]
    if unknown:
        print(f"faults: no such kind: {', '.join(unknown)} (--list names them)", file=sys.stderr)
        return 2
    chosen = [kinds[name] for name in options.kind or kinds]
    from tests.faults import server

    server.use_one_thread()
    began = time.monotonic()
    variants = ["text"] if options.quick else [*VARIANTS, SECOND_SEED]
    world = server.make_world(options.folder, variants)
    print(f"seed {options.seed}, {options.workers} at a time, folder {world.folder}", flush=True)
    warm = time.monotonic() - began
    outcomes = []
    tries = plan(chosen, options.seed, options.tries)
    for outcome in server.run_all(world, tries, workers=options.workers, keep=options.keep):
        outcomes.append(outcome)
        if outcome.broken is not None:
            print(report.broken_line(outcome), flush=True)
        elif options.verbose:
            print(f"kept: {outcome.kind} {outcome.seed} {outcome.seconds} s {outcome.message}")
    seconds = time.monotonic() - began
    print(report.table(outcomes))
    kept = sum(o.broken is None for o in outcomes)
    print(f"{len(outcomes)} injections, {kept} kept, {seconds:.0f} s ({warm:.0f} s to warm up)")
    if not options.keep:
        shutil.rmtree(world.folder, ignore_errors=True)
    if options.out:
        report.write(options.out, outcomes, seed=options.seed, seconds=seconds, folder=world.folder)
    return int(kept != len(outcomes))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the words of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kind", action="append", help="only this kind; may be repeated")
    parser.add_argument("--seed", type=int, help="of the first try; random if absent")
    parser.add_argument("--tries", type=int, help="of each kind; with --kind and --seed one")
    parser.add_argument("--quick", action="store_true", help="only one sort of run")
    parser.add_argument("--workers", type=int, default=2, help="tries at a time")
    parser.add_argument("--out", type=Path, help="write the record there, as JSON")
    parser.add_argument("--folder", type=Path, help="work there instead of a temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave folders of broken promises")
    parser.add_argument("--verbose", action="store_true", help="tell of kept promises, too")
    parser.add_argument("--list", action="store_true", help="list the kinds")
    options = parser.parse_args(argv)
    if options.kind and options.seed is not None and options.tries is None:
        options.tries = 1
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def plan(kinds: list[Kind], seed: int, tries: int | None) -> list[tuple[Kind, int]]:
    """All tries: each kind with one seed after the other, kinds mixed so that slow ones overlap."""
    rounds = max((tries or kind.tries) for kind in kinds)
    return [
        (kind, seed + number)
        for number in range(rounds)
        for kind in kinds
        if number < (tries or kind.tries)
    ]


if __name__ == "__main__":
    sys.exit(main())
