"""What `mambalab train` prints when a run is over."""

from pathlib import Path
from typing import Any

from mambalab import config
from mambalab.records import run_folder
from mambalab.settings.train import TrackingKind
from mambalab.tracking import mlflow_store
from mambalab.train.progress import duration
from mambalab.utils.files import read_json

PICTURE = "plots/loss.png"


def show(settings: config.TrainConfig, run_dir: Path) -> None:
    """Print what a person wants to see of a run that is over, on standard output."""
    summary = read_json(run_dir / run_folder.SUMMARY)
    rows = [("status", f"{summary['status']}: {summary['reason']}")]
    rows.append(("trained", f"{summary['step']:,} steps in {duration(summary['seconds'])}"))
    if summary["tokens_per_second"]:
        rows.append(("speed", f"{summary['tokens_per_second']:,.0f} tokens/s"))
    rows += _metrics(summary)
    if samples := sorted((run_dir / "samples").glob("*.txt")):
        text = samples[-1].read_text(encoding="utf-8").strip()
        rows.append(("sample", "\n" + "\n".join(f"    {line}" for line in text.splitlines())))
    rows.append(("folder", str(run_dir)))
    if (run_dir / PICTURE).exists():
        rows.append(("picture", str(run_dir / PICTURE)))
    rows += [("picture", str(path)) for path in sorted((run_dir / "plots").glob("test_*.png"))]
    if place := _mlflow(settings, run_dir):
        rows.append(("mlflow", place))
    if summary["status"] == "KILLED":
        goes_on = f"goes on from step {summary['step']:,}"
        if summary.get("left") == "test":
            goes_on = "measures the test, from its beginning"
        rows.append(("next", f"the same command {goes_on}"))
    print("\n".join(f"{name:<8} {text}" for name, text in rows))


def _metrics(summary: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, values in (("best", summary["best"]), ("last", summary["last"])):
        if values:
            metrics = ", ".join(f"{k} {v:.4f}" for k, v in values.items() if k != "step")
            rows.append(
                (name, metrics + (f" at step {values['step']:,}" if name == "best" else ""))
            )
    if test := summary.get("test"):
        shown = ", ".join(f"{k} {v:.4f}" for k, v in test.items() if k.count("/") == 1)
        rows.append(("test", f"{shown}, weights of step {test['step']:,}"))
    return rows


def _mlflow(settings: config.TrainConfig, run_dir: Path) -> str | None:
    """Where to look at the run in MLflow; None if it never arrived there."""
    note = read_json(run_dir / run_folder.MLFLOW)
    if settings.tracking.kind is not TrackingKind.mlflow or not note.get("run_id"):
        return None
    if settings.tracking.uri is not None:
        return mlflow_store.hide_password(settings.tracking.uri)
    default = settings.output_dir == "outputs"
    return "mambalab ui" + ("" if default else f" output_dir={settings.output_dir}")
