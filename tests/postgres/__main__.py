"""`python -m tests.postgres [--points 5000] [--stop 60] [--record FILE]`: the whole trial.

Eight runs write at once to PostgreSQL, then to `mlflow server` over it, with PostgreSQL stopped
meanwhile. What a run gave up is sent afterwards, as a person does it with `mambalab sync`.
"""

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.faults.report import revision
from tests.postgres import cluster, trial

WRITERS = 8


def main() -> int:
    """Run both trials, print and perhaps record them; 1 if a point lacks or is there twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.postgres")
    parser.add_argument("--points", type=int, default=5000, help="of each of the eight runs")
    parser.add_argument("--stop", type=float, default=60.0, help="seconds without PostgreSQL")
    parser.add_argument("--go-on", type=float, default=45.0, help="seconds after that, at least")
    parser.add_argument("--record", type=Path, help="file for the figures")
    given = parser.parse_args()
    if why := cluster.missing():
        print(f"postgres: {why}", file=sys.stderr)
        return 2
    trials = {}
    with tempfile.TemporaryDirectory() as place, cluster.cluster(durable=True) as database:
        folder = Path(place)
        known = {
            "writers": WRITERS,
            "points": given.points,
            "stop_seconds": given.stop,
            "go_on_seconds": given.go_on,
        }
        trials["postgresql"] = trial.run(database, database.uri, folder / "direct", **known)
        print(trials["postgresql"], flush=True)
        with trial.mlflow_server(database, folder) as uri:
            trials["mlflow server"] = trial.run(database, uri, folder / "http", **known)
            print(trials["mlflow server"], flush=True)
        [[version]] = database.query("show server_version")
    if given.record is not None:
        rows = [
            {"store": name, **{k: v for k, v in asdict(one).items() if k != "said"}}
            | {"lines": len(one.said)}
            for name, one in trials.items()
        ]
        record = {
            "revision": revision(),
            "python": platform.python_version(),
            "postgresql": str(version).split()[0],
            "writers": WRITERS,
            "stop_seconds": given.stop,
            "go_on_seconds": given.go_on,
            "trials": rows,
        }
        given.record.write_text(json.dumps(record, indent=1) + "\n")
    whole = all(t.after_sync == t.points and not t.twice and not t.other for t in trials.values())
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
