"""Where MLflow's pages show a run, a sweep, or the newest runs.

Without the word in the address that asks for them, MLflow shows its pages for language models,
on which there are no runs.
"""

from typing import TYPE_CHECKING

from mambalab.errors import UserError
from mambalab.tracking import mlflow_view
from mambalab.tracking.note import Note

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TRAINING = "workflowType=machine_learning"


def newest(client: "MlflowClient", *, with_view: bool) -> str:
    """Return the page that lists the runs of the experiment in which a run was begun last.

    Args:
        client: of the store.
        with_view: whether to choose its columns, which writes a tag of the experiment.

    Returns:
        What follows the server's address. An empty store has a page of experiments only.
    """
    experiments, token = [], None
    while True:
        page = client.search_experiments(page_token=token)
        experiments += [found.experiment_id for found in page]
        if not (token := page.token):
            break
    order = ["attributes.start_time DESC"]
    runs = client.search_runs(experiments, order_by=order, max_results=1) if experiments else []
    if not runs:
        return f"#/experiments?{TRAINING}"
    experiment = runs[0].info.experiment_id
    view = f"&{mlflow_view.write(client, experiment)}" if with_view else ""
    return f"#/experiments/{experiment}/runs?{TRAINING}{view}"


def of_run(client: "MlflowClient", note: Note) -> str:
    """Return the page of one run or sweep, as `newest` does.

    Raises:
        UserError: the store has no such run.
    """
    from mlflow.exceptions import MlflowException

    assert note.run_id is not None, "it was sent"
    try:
        run = client.get_run(note.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(f"MLflow has no run {note.run_id} any more: send it again with "
                        "`mambalab sync RUN`") from error  # fmt: skip
    return f"#/experiments/{run.info.experiment_id}/runs/{note.run_id}?{TRAINING}"
