"""Puts together again what a run folder lost: summary.json and spec.json, from its checkpoints.

A folder with config.yaml and a checkpoint is a run, whatever became of its small files.
"""

import logging
from pathlib import Path

from mambalab.errors import UserError
from mambalab.records import reader
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import FinalTestResult, RunSummary
from mambalab.spec import ModelSpec
from mambalab.train import checkpoint
from mambalab.utils import files

LOG = logging.getLogger("mambalab")


def read_summary(folder: RunFolder) -> RunSummary:
    """Read summary.json; one that is lost or damaged is put together from the checkpoints.

    That is said; nothing is written.

    Raises:
        UserError: it cannot be read, for want of rights, say.
    """
    try:
        summary = folder.summary()
        if summary.status is not None or summary.other or not folder.is_begun():
            return summary
    except UserError:
        if not files.is_damaged_json(folder.summary_file):
            raise
    found = _newest(folder.path)
    LOG.warning(
        "%s is lost or damaged: what it said is taken from %s",
        folder.summary_file,
        found.path if found else folder.config,
    )
    facts = checkpoint.read_facts(found) if found else {}
    run = facts.get("run")
    known = {
        "precision": facts.get("precision"),
        "checkpoint": facts.get("began_with"),
        "uid": run.get("uid") if isinstance(run, dict) else None,
        "data": facts.get("data", facts.get("fingerprint")),
        "step": found.step if found else None,
    }
    if (best := checkpoint.find(folder.path, "best")) is not None:
        facts = checkpoint.read_facts(best)
        known["metric"] = facts.get("metric")
        if isinstance(metrics := facts.get("metrics"), dict):
            known["best"] = {"step": best.step, **metrics}
    summary = RunSummary.from_json({k: v for k, v in known.items() if v is not None})
    summary.test = _test(folder.path)
    return summary


def set_damaged_aside(path: Path) -> None:
    """Rename a JSON file that is damaged, unless it is empty; raises OSError if that fails."""
    if files.is_damaged_json(path) and path.lstat().st_size:
        path.rename(files.free_name(path))


def spec(run_dir: Path) -> ModelSpec | None:
    """The shape of the task by a checkpoint, for a lost spec.json; None if no checkpoint has it."""
    found = _newest(run_dir)
    fields = checkpoint.read_facts(found).get("spec") if found else None
    try:
        return ModelSpec(**fields) if isinstance(fields, dict) else None
    except (TypeError, AssertionError):
        return None


def _newest(run_dir: Path) -> checkpoint.Checkpoint | None:
    """The newest checkpoint whose manifest can be read, of the kind `last` if there is one."""
    found = [c for kind in ("last", "best") for c in checkpoint.find_all(run_dir, kind)]
    return next((c for c in found if checkpoint.read_facts(c)), None)


def _test(run_dir: Path) -> FinalTestResult | None:
    """What metrics.jsonl says of the final test, which a run does once."""
    try:
        curves = reader.read_curves(run_dir)
    except UserError:
        return None
    last = {k: points[-1] for k, points in curves.items() if k.startswith("test/")}
    step = max((step for step, _ in last.values()), default=None)
    metrics = {k: value for k, (at, value) in last.items() if at == step and value is not None}
    # A run is tested again only with weights of another step.
    times = len({at for k, points in curves.items() if k.startswith("test/") for at, _ in points})
    return FinalTestResult(step, times, metrics) if metrics else None
