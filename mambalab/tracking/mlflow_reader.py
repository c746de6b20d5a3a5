"""Runs read out of an MLflow store, as if they were run folders."""

import ast
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab.errors import UserError
from mambalab.records import run_folder
from mambalab.records.reader import Curve, RunRecord, StoredRun
from mambalab.records.summary import RunSummary
from mambalab.tracking import mlflow_names, mlflow_store
from mambalab.tracking.mlflow_run import RESUMED
from mambalab.tracking.store_failure import failure_of
from mambalab.utils.files import read_json
from mambalab.utils.secrets import hide_password

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def read(experiment: str, uri: str | None, output_dir: Path) -> list[RunRecord]:
    """Read all runs of an experiment but the parents of sweeps, in the order of their names.

    Args:
        experiment: its name.
        uri: as a person gives it; None = the store in `output_dir`.
        output_dir: folder of the default store.

    Raises:
        UserError: no such store or experiment, or the store does not answer.
    """
    uri = mlflow_store.store_uri(uri, output_dir)
    mlflow_store.check(uri)
    path = mlflow_store.sqlite_path(uri)
    if path is not None and not path.exists():
        raise UserError(f"there is no MLflow store {path}: give uri= or output_dir=")
    try:
        client = mlflow_store.connect(uri, output_dir)
        runs = _runs(client, experiment)
        records: list[RunRecord] = [_record(client, run) for run in runs]
    except UserError:
        raise
    except Exception as error:  # MLflow and its drivers raise all kinds
        shown = hide_password(uri)
        raise UserError(f"cannot read runs from {shown}: {failure_of(error).reason}") from error
    return sorted(records, key=lambda record: str(record.path))


def _runs(client: "MlflowClient", experiment: str) -> "list[Run]":
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = ", ".join(sorted(e.name for e in client.search_experiments()))
        raise UserError(f"mlflow={experiment}: no such experiment; there are: {names}")
    runs, token = [], None
    while True:
        page = client.search_runs([found.experiment_id], page_token=token)
        runs += [run for run in page if run.data.tags.get(mlflow_store.KIND) != mlflow_store.SWEEP]
        token = page.token
        if not token:
            break
    if not runs:
        raise UserError(f"mlflow={experiment}: the experiment holds no run")
    return runs


def _record(client: "MlflowClient", run: "Run") -> StoredRun:
    run_id, tags = run.info.run_id, run.data.tags
    changed = {k.removeprefix(RESUMED): v for k, v in tags.items() if k.startswith(RESUMED)}
    noted = {key: value for key, value in tags.items() if "." not in key}
    summary = _summary(client, run_id) or noted
    status = mlflow_names.tag(tags, mlflow_names.STATUS) or run.info.status
    return StoredRun(
        path=Path(f"{run.info.run_name or 'run'} ({run_id[:8]})"),
        config=unflatten({**run.data.params, **changed}),
        summary=RunSummary.from_json({**summary, "status": status}),
        points={
            name: _curve(client, run_id, key)
            for key in run.data.metrics
            if (name := mlflow_names.in_file(key)) is not None
        },
    )


def _summary(client: "MlflowClient", run_id: str) -> dict[str, Any]:
    """Read the run's summary.json among its artifacts; empty if there is none.

    Raises:
        UserError: it is damaged.
    """
    if not any(file.path == run_folder.SUMMARY for file in client.list_artifacts(run_id)):
        return {}
    with tempfile.TemporaryDirectory(prefix="mambalab-") as folder:
        return read_json(Path(client.download_artifacts(run_id, run_folder.SUMMARY, folder)))


def _curve(client: "MlflowClient", run_id: str, key: str) -> Curve:
    points: dict[int, float | None] = {}
    for metric in client.get_metric_history(run_id, key):
        points.setdefault(metric.step, run_folder.finite(metric.value))
    return sorted(points.items())


def unflatten(params: Mapping[str, str]) -> dict[str, Any]:
    """Nest MLflow's parameters as settings, numbers and lists read back from their text."""
    config: dict[str, Any] = {}
    for name, text in params.items():
        *parents, leaf = name.split(".")
        inside = config
        for parent in parents:
            inside = inside.setdefault(parent, {}) if isinstance(inside, dict) else inside
        if isinstance(inside, dict):
            inside[leaf] = parse(text)
        else:  # a name that is the beginning of another one
            config[name] = parse(text)
    return config


def parse(text: str) -> Any:
    """Return the value that a parameter's text stands for, as `description.params_of` wrote it."""
    if text in (words := {"null": None, "None": None, "True": True, "False": False}):
        return words[text]
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    if text.startswith(("[", "{")):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):  # a text that looks like a list
            return text
    return text
