"""Settings of the verbs that read and send records of runs (no torch, no mlflow here)."""

from dataclasses import dataclass

from mambalab.errors import UserError
from mambalab.settings.rules import option

_FOLDER = {"match": r"[\s\S]+", "hint": "the path of a folder"}


@dataclass
class RunsSettings:
    """`mambalab runs`."""

    output_dir: str = option("folder whose runs are listed", **_FOLDER)


@dataclass
class SyncSettings:
    """`mambalab sync RUN...`."""

    runs: list[str] = option("run folders, or latest")
    output_dir: str = option("folder of the MLflow store; run=latest looks there", **_FOLDER)
    uri: str | None = option("MLflow tracking URI; null = sqlite:///<output_dir>/mlflow.db")

    def check_ready(self) -> None:
        """Raise UserError if no run is named."""
        if not self.runs:
            raise UserError("sync: which run? e.g. mambalab sync latest, or paths of run folders")


@dataclass
class UiSettings:
    """`mambalab ui`."""

    output_dir: str = option("folder of the MLflow store", **_FOLDER)
    port: int = option("port on this machine; if it is taken another one is used", ge=0, le=65535)
