"""What the tests of tracking compare: points in a run folder and points in MLflow's database."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from mambalab.tracking import mlflow_store

RENAMED = {  # MLflow's name -> that in metrics.jsonl
    "system/seconds": "time/seconds",
    "system/tokens_per_second": "time/tokens_per_second",
    "jobs_finished": "jobs/finished",
    "jobs_failed": "jobs/failed",
    "jobs_pruned": "jobs/pruned",
}
Point = tuple[str, int, float | None]


def build_template(folder: Path) -> Path:
    """An empty MLflow store, for copying: building one takes seconds."""
    mlflow_store.connect(mlflow_store.store_uri(None, folder), folder)
    return folder / mlflow_store.STORE


def copy_template(template: Path, output_dir: Path) -> Path:
    """A store of its own below an output_dir."""
    target = output_dir / mlflow_store.STORE
    shutil.copyfile(template, target)
    return target


def query(store: Path, sql: str) -> list[tuple]:
    """Ask the database itself, past MLflow and past mambalab."""
    with closing(sqlite3.connect(store, timeout=300)) as database:
        return database.execute(sql).fetchall()


def forget_runs(store: Path) -> None:
    """Delete all runs, as if the store had been made anew under the same address."""
    with closing(sqlite3.connect(store, timeout=300)) as database, database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"delete from {table}")


def points_in_store(store: Path, run_id: str | None = None) -> list[Point]:
    """Every row of the metrics table (of one run) that is of metrics.jsonl, duplicates and all.

    Under the file's names. What a file never holds is left out: the best, the machine's load.
    """
    where = f"where run_uuid = '{run_id}'" if run_id else ""
    rows = query(store, f"select key, step, value, is_nan from metrics {where}")
    named = ((RENAMED.get(key, key), *rest) for key, *rest in rows)
    ours = (row for row in named if not row[0].startswith(("best/", "system/")))
    return sorted(((k, s, None if nan else v) for k, s, v, nan in ours), key=str)


def points_in_folder(run_dir: Path) -> list[Point]:
    """Every value of metrics.jsonl, duplicates and all."""
    points: list[Point] = []
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        data = json.loads(line)
        step = data.pop("step")
        points += [(key, step, value) for key, value in data.items()]
    return sorted(points, key=str)
