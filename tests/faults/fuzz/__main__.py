"""Fuzz every verb: `python -m tests.faults.fuzz [--seed S] [--family F] [--name N] [--out F]`."""

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.faults import report
from tests.faults.fuzz.batch import Input, Verdict, run_all

COUNTS = {
    "keys, composed": 4500,
    "train -m, composed": 700,
    "keys, trained": 300,
    "./conf damaged": 300,
    "data: text": 400,
    "data: TSV and CSV": 300,
    "data: images": 300,
    "data: idx": 150,
    "data: parquet": 150,
    "data: tokenizer.json": 200,
    "run folders": 500,
    "sweep folders": 200,
    "pretrained folders": 300,
}


def main(argv: list[str] | None = None) -> int:
    """Feed the inputs, print the table; returns 1 if anything but a clear answer came, else 0."""
    options = _parse(argv)
    unknown = [name for name in options.family or () if name not in COUNTS]
    if unknown:
        print(f"fuzz: no such family: {', '.join(unknown)}; there are {', '.join(COUNTS)}")
        return 2
    from tests.faults import server

    server.use_one_thread()
    os.environ["HF_HUB_OFFLINE"] = "1"
    began = time.monotonic()
    world = server.make_world(options.folder, variants=())
    print(f"seed {options.seed}, folder {world.folder}", flush=True)
    inputs = _inputs(world, options)
    verdicts = []
    for verdict in run_all(inputs, world.folder, workers=options.workers):
        verdicts.append(verdict)
        if verdict.problem:
            print(f"{verdict.problem.upper()} {verdict.family}, {verdict.name}: {verdict.detail}")
            sys.stdout.flush()
    seconds = time.monotonic() - began
    rows = _rows(verdicts)
    print("| inputs | count | tracebacks | hangs | other | seconds |")
    print("|---|--:|--:|--:|--:|--:|")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in row.values())} |")
    bad = [v for v in verdicts if v.problem]
    print(f"{len(verdicts):,} inputs, {len(bad)} problems, {seconds:.0f} s, seed {options.seed}")
    if options.out:
        record = {
            "seed": options.seed,
            "revision": report.revision(),
            "seconds": round(seconds, 1),
            "inputs": len(verdicts),
            "problems": len(bad),
            "families": rows,
            "found": [vars(v) for v in bad],
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(world.folder, ignore_errors=True)
    return int(bool(bad))


def _inputs(world: object, options: argparse.Namespace) -> list[Input]:
    from tests.faults.fuzz import files, folders, keys

    made: dict[str, object] = {}

    def damaged(make: Callable) -> Callable[[random.Random, int], list[Input]]:
        def inputs(rng: random.Random, count: int) -> list[Input]:
            if "templates" not in made:
                made["templates"] = folders.make_templates(world)  # type: ignore[arg-type]
            return make(made["templates"], rng, count)

        return inputs

    makers: dict[str, Callable[[random.Random, int], list[Input]]] = {
        "keys, composed": keys.inputs,
        "train -m, composed": keys.multirun,
        "keys, trained": keys.trained,
        "./conf damaged": files.confs,
        "data: text": files.texts,
        "data: TSV and CSV": files.pairs,
        "data: images": files.images,
        "data: idx": files.idx,
        "data: parquet": files.parquet,
        "data: tokenizer.json": files.tokenizers,
        "run folders": damaged(folders.runs),
        "sweep folders": damaged(folders.sweeps),
        "pretrained folders": damaged(folders.pretrained),
    }
    found = []
    for family, count in COUNTS.items():
        if not options.family or family in options.family:
            rng = random.Random(f"{family}/{options.seed}")
            found += makers[family](rng, max(1, round(count * options.scale)))
    if options.name:
        found = [one for one in found if one.name == options.name]
    return found


def _rows(verdicts: list[Verdict]) -> list[dict]:
    rows = []
    for family in dict.fromkeys(v.family for v in verdicts):
        mine = [v for v in verdicts if v.family == family]
        count = Counter(v.problem for v in mine)
        rows.append(
            {
                "inputs": family,
                "count": len(mine),
                "tracebacks": count["traceback"],
                "hangs": count["hang"],
                "other": count["died"] + count["escape"],
                "seconds": round(sum(v.seconds for v in mine), 1),
            }
        )
    return rows


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--family", action="append", help="only these inputs; may be repeated")
    parser.add_argument("--name", help="only the input of this name, to repeat it")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of inputs")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--out", type=Path, help="write the record there, as JSON")
    parser.add_argument("--folder", type=Path, help="work there instead of a temporary folder")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
