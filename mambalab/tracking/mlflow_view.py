"""The view in which `mambalab ui` opens an experiment: columns and order of charts.

By itself MLflow's list of runs has no column for a result or a setting, and its charts come in
alphabetical order. A view is a tag of the experiment that the address names; MLflow's pages
(seen with 3.17) take from it what they understand.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mambalab.tracking import mlflow_names as names
from mambalab.tracking.mlflow_store import KIND, PARENT

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

KEY = "mambalab"
MAX_RUNS = 200  # the newest, by which columns are chosen
MAX_SETTINGS = 6
_TAG = "mlflow.sharedViewState."
_FIRST = ("model.name", "dropout.name", "seed")  # of the settings that differ
_BESIDE = ("tracking.", "run_dir", "output_dir", "data_dir", "resume", "resumed.")  # say nothing
_SECTIONS = ("val", "train", "best", "test")


def write(client: "MlflowClient", experiment_id: str) -> str:
    """Save the view of an experiment's newest runs in it.

    Returns:
        What the address of the page needs to show it.
    """
    order = ["attributes.start_time DESC"]
    runs = client.search_runs([experiment_id], order_by=order, max_results=MAX_RUNS)
    text = json.dumps(state(list(runs)))
    client.set_experiment_tag(experiment_id, f"{_TAG}{KEY}", text)
    return f"viewStateShareKey={KEY}"


def state(runs: "Sequence[Run]") -> dict[str, Any]:
    """Choose columns and sections of charts for some runs, in the form that MLflow's pages read."""
    trained = [run for run in runs if run.data.tags.get(KIND) is None]
    best = {key for run in runs for key in run.data.metrics if key.startswith(names.BEST)}
    columns = [f"metrics.`{key}`" for key in sorted(best, key=_importance)]
    inputs = [one for run in trained if run.inputs for one in run.inputs.dataset_inputs]
    if len({one.dataset.digest for one in inputs}) > 1:
        columns.insert(0, "attributes.`Dataset`")  # wide: where all are the same it hides the rest
    columns += [f"params.`{key}`" for key in differing(run.data.params for run in trained)]
    found: dict[str, Any] = {"selectedColumns": columns}
    on_top = [run for run in trained if PARENT not in run.data.tags]
    have = {key.rpartition("/")[0] for run in on_top for key in run.data.metrics}
    if on_top:  # the runs of a sweep are folded: sections for them would begin empty
        shown = [*(name for name in _SECTIONS if name in have), *sorted(have - {*_SECTIONS})]
        shown = [name for name in shown if f"{name}/" not in ("/", names.SYSTEM)]
        found |= {
            "compareRunCharts": [],  # MLflow adds those of the metrics there are
            "compareRunSections": [
                {"uuid": f"{KEY}-{name}", "name": name, "display": True, "isReordered": False}
                for name in shown
            ],
            "isAccordionReordered": True,
        }
    return found


def _importance(key: str) -> tuple[bool, bool, str]:
    """Sort the metric that people judge by first: accuracy, then loss."""
    return not key.endswith("accuracy"), not key.endswith("loss"), key


def differing(params: Iterable[dict[str, str]]) -> list[str]:
    """Name the settings in which runs differ, those first that most runs differ in by intent."""
    values: dict[str, set[tuple[str, str]]] = {}  # with that of the group's name, by key
    for one in params:
        for key, value in one.items():
            preset = one.get(f"{key.partition('.')[0]}.name", "")
            values.setdefault(key, set()).add((preset, value))
    found = []
    for key, seen in values.items():
        differs = len({value for _, value in seen}) > 1
        follows = len({preset for preset, _ in seen}) == len(seen)  # from the choice of a preset
        told = not follows or key.endswith(".name")
        if differs and told and not key.startswith(_BESIDE) and not key.endswith("._target_"):
            found.append(key)
    first = [key for key in _FIRST if key in found]
    return [*first, *(key for key in found if key not in first)][:MAX_SETTINGS]
