"""`python -m tests.postgres.writers URI FOLDER WRITERS POINTS [PAUSES...]`: runs that write.

One process imports MLflow and forks a writer for each run, which records through mambalab's own
`Recorder`: a third of its points; a third once FOLDER/go1 exists; the rest once FOLDER/go2 does.
"""

import os
import sys
import time
from pathlib import Path

from mambalab.settings.train import TrackingKind, TrackingSettings
from mambalab.tracking import mlflow_store, sink
from mambalab.tracking.recorder import Recorder

VALUES = 4  # of a step


def write(uri: str, folder: Path, number: int, points: int) -> None:
    """Record one run; what it says to a person is kept in `said`."""
    said = []
    settings = TrackingSettings(TrackingKind.mlflow, uri, None)
    run_dir = folder / "runs" / f"run{number}"
    recorder = Recorder(
        run_dir, settings, output_dir=folder, announce=lambda line, extra=None: said.append(line)
    )
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text("task: {name: writers}\nuri: null\n")
    recorder.start(params={"task": {"name": "writers"}, "uri": uri}, tags={}, resume=False)
    steps = points // VALUES
    for step in range(1, steps + 1):
        values = {f"train/m{i}": step + number / 10 for i in range(VALUES - 1)}
        recorder.metrics(step, {**values, "time/seconds": step / 50})
        for part in (1, 2):
            if step == part * steps // 3:
                (folder / f"part{part}-{number}").touch()
                while not (folder / f"go{part}").exists():
                    time.sleep(0.02)
    recorder.finish("FINISHED")
    (folder / f"said{number}").write_text("\n".join(said))


def main(uri: str, folder: Path, writers: int, points: int, pauses: tuple[float, ...]) -> int:
    """Fork the writers and wait; returns how many failed."""
    mlflow_store.prepare_environment()
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401

    if pauses:
        sink.PERIOD_SECONDS, sink.PAUSE_SECONDS = 0.2, pauses
        sink.REMOTE_PATIENCE_SECONDS = sink.MAX_FINISH_SECONDS  # however busy the machine is
    children = []
    for number in range(writers):
        if not (child := os.fork()):
            try:
                write(uri, folder, number, points)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    address, place, runs, count, *waits = sys.argv[1:]
    sys.exit(main(address, Path(place), int(runs), int(count), tuple(map(float, waits))))
