"""Names that MLflow's pages need to be other ones than the run folder's.

MLflow sorts its charts by the part of the name before the last slash: one section each, in
alphabetical order, then the names without a slash, then `system/`. What people look at first is to
come first. Tags that begin with `mlflow.` are not shown.
"""

from collections.abc import Mapping

SECONDS_METRIC = "time/seconds"
# Metrics by their name in metrics.jsonl.
_IN_STORE = {
    SECONDS_METRIC: "system/seconds",
    "time/tokens_per_second": "system/tokens_per_second",
    "jobs/finished": "jobs_finished",
    "jobs/failed": "jobs_failed",
    "jobs/pruned": "jobs_pruned",
}
_IN_FILE = {stored: name for name, stored in _IN_STORE.items()}
BEST, SYSTEM = "best/", "system/"  # prefixes of metrics that metrics.jsonl does not hold

UID, PID, BORN = "mlflow.mambalab.uid", "mlflow.mambalab.pid", "mlflow.mambalab.born"
STATUS = "mlflow.mambalab.status"
# Before they were hidden.
OLD_TAGS = {
    UID: "mambalab.uid",
    PID: "mambalab.pid",
    BORN: "mambalab.born",
    STATUS: "mambalab.status",
}


def in_store(name: str) -> str:
    """Name a metric of metrics.jsonl as MLflow gets it."""
    return _IN_STORE.get(name, name)


def in_file(name: str) -> str | None:
    """Name a metric of MLflow as metrics.jsonl has it; None if it is not from there."""
    if name in _IN_FILE:
        return _IN_FILE[name]
    return None if name.startswith((BEST, SYSTEM)) else name


def kept_old(names: Mapping[str, object]) -> bool:
    """Tell whether a store got a run's metrics under their names in metrics.jsonl."""
    return any(name in _IN_STORE for name in names)


def tag(tags: Mapping[str, str], name: str) -> str | None:
    """Return a tag's value, under its name of today or the old one; None if it is not set."""
    return tags.get(name, tags.get(OLD_TAGS.get(name, name)))
