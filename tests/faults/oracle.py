"""What a run left behind, and whether it is what an undisturbed run leaves.

The clock aside (`time/...`), a run folder must hold the same points, samples, tables, weights and
results; MLflow must hold what the folder holds: every point once and no other, the same status,
every file byte by byte.
"""

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mambalab.tracking.mlflow_files import attachments
from mambalab.tracking.mlflow_names import in_file
from tests.faults.process import BrokenPromiseError

RESULTS = ("status", "step", "ended_by", "metric", "best", "last", "test", "parameters")


@dataclass(frozen=True)
class Facts:
    """What must not depend on how often a run was interrupted."""

    points: dict[tuple[str, int], float | None]
    samples: dict[str, str]
    tables: dict[str, str]
    last: str
    best: str
    results: dict[str, Any]

    def check(self, undisturbed: "Facts") -> None:
        """Raise BrokenPromiseError if they differ from those of an undisturbed run."""
        lost = undisturbed.points.keys() - self.points.keys()
        more = self.points.keys() - undisturbed.points.keys()
        if lost or more:
            some = sorted(lost or more)[:3]
            word = "lost" if lost else "too many"
            raise BrokenPromiseError(f"metrics.jsonl: {len(lost or more)} points {word}: {some}")
        for name in ("points", "samples", "tables", "last", "best", "results"):
            mine, theirs = getattr(self, name), getattr(undisturbed, name)
            if mine != theirs:
                differs = ""
                if isinstance(mine, dict):
                    keys = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
                    differs = f": {keys[:3]}"
                raise BrokenPromiseError(f"{name} differ from an undisturbed run's{differs}")


def facts(run_dir: Path) -> Facts:
    """Read the facts of a run folder; raises BrokenPromiseError for a point that is there twice."""
    points: dict[tuple[str, int], float | None] = {}
    for (key, step), value in _points(run_dir):
        if key.startswith("time/"):
            continue
        if (key, step) in points:
            raise BrokenPromiseError(f"metrics.jsonl holds {key} at step {step} twice")
        points[key, step] = value
    summary = json.loads((run_dir / "summary.json").read_text())
    last = {k: v for k, v in (summary.get("last") or {}).items() if not k.startswith("time/")}
    return Facts(
        points=points,
        samples=_hashes(run_dir / "samples"),
        tables=_hashes(run_dir / "tables"),
        last=_weights(run_dir, "last"),
        best=_weights(run_dir, "best"),
        results={
            **{name: summary.get(name) for name in RESULTS},
            "last": last,
            "data": {k: v.rpartition("/")[2] for k, v in (summary.get("data") or {}).items()},
        },
    )


def litter(run_dir: Path) -> list[str]:
    """Names of half-written files that nobody cleared."""
    found = (p for p in run_dir.rglob("*") if p.name.startswith(".") or "partial" in p.name)
    return sorted(str(p.relative_to(run_dir)) for p in found if p.name != ".lock")


def check_mlflow(run_dir: Path, store: Path) -> None:
    """Raise BrokenPromiseError if MLflow's database does not hold exactly what the folder holds."""
    note = json.loads((run_dir / "mlflow_run.json").read_text())
    run_id = note["run_id"]
    if note.get("state") != "complete":
        raise BrokenPromiseError(f"MLflow: the folder says {note.get('state')}")
    with closing(sqlite3.connect(store, timeout=20)) as database:
        rows = database.execute(
            "select key, step, value, is_nan from metrics where run_uuid = ?", (run_id,)
        ).fetchall()
        run = database.execute(
            "select status, artifact_uri from runs where run_uuid = ?", (run_id,)
        ).fetchone()
    if run is None:
        raise BrokenPromiseError("MLflow lacks the run")
    named = ((in_file(key), *rest) for key, *rest in rows)
    there = sorted(((k, s), None if nan else v) for k, s, v, nan in named if k is not None)
    here = sorted(_points(run_dir))
    if there != here:
        twice = len(there) - len({point for point, _ in there})
        missing = len({p for p, _ in here} - {p for p, _ in there})
        more = len({p for p, _ in there} - {p for p, _ in here})
        what = f"{missing} missing, {twice} twice, {more} not in the folder"
        if not missing + twice + more:
            what = "other values than the folder's"
        raise BrokenPromiseError(f"MLflow's points: {what}")
    status = json.loads((run_dir / "summary.json").read_text())["status"]
    if run[0] != status:
        raise BrokenPromiseError(f"MLflow's status is {run[0]}, the folder's is {status}")
    artifacts = Path(unquote(urlparse(run[1]).path))
    for path in attachments(run_dir):
        copy = artifacts / path.relative_to(run_dir)
        if not copy.is_file() or copy.read_bytes() != path.read_bytes():
            state = "differs" if copy.is_file() else "is missing"
            raise BrokenPromiseError(f"MLflow's copy of {path.relative_to(run_dir)} {state}")


def runs_in(store: Path) -> list[tuple[str, str]]:
    """Id and status of every run in the store that is not deleted."""
    with closing(sqlite3.connect(store, timeout=20)) as database:
        return database.execute(
            "select run_uuid, status from runs where lifecycle_stage = 'active'"
        ).fetchall()


def newest(run_dir: Path, kind: str) -> Path | None:
    """Folder of the newest checkpoint of a kind."""
    found = sorted((run_dir / "checkpoints").glob(f"{kind}-" + "[0-9]" * 8))
    return found[-1] if found else None


def _points(run_dir: Path) -> list[tuple[tuple[str, int], float | None]]:
    found = []
    try:
        text = (run_dir / "metrics.jsonl").read_text()
    except FileNotFoundError:
        raise BrokenPromiseError("there is no metrics.jsonl") from None
    for line in text.splitlines():
        row = json.loads(line)
        step = row.pop("step")
        found += [((key, step), value) for key, value in row.items()]
    return found


def _hashes(folder: Path) -> dict[str, str]:
    files = folder.glob("[!.]*") if folder.is_dir() else ()
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _weights(run_dir: Path, kind: str) -> str:
    folder = newest(run_dir, kind)
    if folder is None:
        raise BrokenPromiseError(f"there is no checkpoint {kind}")
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
