"""A password in tracking.uri reaches the jobs, and no file."""

import os
import queue

import pytest

from mambalab.errors import UserError
from mambalab.settings.train import TrackingKind
from mambalab.sweep import run as sweeps
from mambalab.sweep import worker
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.plan import plan
from mambalab.sweep.processes import TRACKING_URI, write_order
from mambalab.utils.files import read_json
from tests.lab import compose, only_run, train

SECRET = "sEcReT"
URI = f"http://me:{SECRET}/x@127.0.0.1:9/?token={SECRET}"


def written(folder) -> str:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return "".join(f"{p}\n{p.read_bytes().decode(errors='replace')}\n" for p in files)


@pytest.mark.parametrize(
    "word", [f"tracking.uri='{URI}'", "tracking.uri=${oc.env:MY_STORE}", f"++tracking.uri='{URI}'"]
)
def test_a_sweep_writes_none_down_and_its_jobs_know_it(workdir, monkeypatch, word):
    monkeypatch.setenv("MY_STORE", URI)
    monkeypatch.setenv(TRACKING_URI, "none")
    words = ["task=text", "seed=1,2", "tracking=mlflow", word]
    found = plan(words)
    found.command = words
    monkeypatch.setattr(sweeps.MlflowParent, "start", lambda self: None)
    monkeypatch.setattr(sweeps.MlflowParent, "finish", lambda self, status: None)
    jobs = []

    def run(scheduler):
        for job in found.jobs:
            jobs.append(read_json(write_order(scheduler.sweep, job)))

    monkeypatch.setattr(sweeps.Scheduler, "run", run)
    sweeps.run(found)
    assert SECRET not in written(workdir)
    assert SweepFolder.read(found.folder).command[:2] == words[:2]
    whole = os.environ[TRACKING_URI]
    for order in jobs:
        monkeypatch.setenv(TRACKING_URI, whole)
        worker._fill_in_password(order["config"])
        assert order["config"]["tracking"]["uri"] == URI
        assert TRACKING_URI not in os.environ


def test_an_address_of_another_sweep_is_not_taken(monkeypatch):
    monkeypatch.setenv(TRACKING_URI, "http://u:p@other")
    config = {"tracking": {"uri": "http://h"}}
    worker._fill_in_password(config)
    assert config["tracking"]["uri"] == "http://h"


@pytest.mark.parametrize(
    "words", [["tracking.uri=http://a,http://b"], ["sweep.params={tracking.uri: ['http://a:b@c']}"]]
)
def test_a_sweep_over_stores_is_refused(workdir, words):
    with pytest.raises(UserError, match=r"tracking\.uri: one sweep is recorded in one store"):
        plan(["task=text", *words])


def test_a_run_writes_none_down(folder, capsys, monkeypatch):
    from mambalab.tracking import recorder

    seen = []

    class Mirror:
        def __init__(self, run_dir, uri, *, description, sync_command, **_):
            seen.extend([uri, str(description), sync_command])
            self.notices = queue.SimpleQueue()

        start = file = finish = lambda self, *_: None

    monkeypatch.setattr(recorder, "MlflowMirror", Mirror)
    assert train("tracking=mlflow", f"tracking.uri='{URI}'") == 0
    assert seen[0] == URI
    assert SECRET not in "".join(seen[1:])
    assert SECRET not in written(folder)
    assert SECRET not in "".join(capsys.readouterr())
    assert "uri: http://127.0.0.1:9/?token=" in (only_run(folder) / "config.yaml").read_text()


def test_a_message_shows_none(workdir, capsys):
    from mambalab.cli import main

    assert main.main(["train", f"tracking.uri=ftp://me:{SECRET}@h", "task=text"]) != 0
    assert main.main(["train", f"tracking.ury=http://me:{SECRET}@h"]) != 0
    assert SECRET not in "".join(capsys.readouterr())


def test_what_an_older_version_wrote_is_not_uploaded(tmp_path):
    from mambalab.tracking.mlflow_files import without_passwords

    path = tmp_path / "config.yaml"
    path.write_text(f"tracking:\n  kind: mlflow\n  uri: {URI}\nseed: 1\n")
    with without_passwords(path) as sent:
        assert sent.name == "config.yaml"
        text = sent.read_text()
    assert SECRET not in text
    assert text.endswith("seed: 1\n")
    other = tmp_path / "summary.json"
    other.write_text("{}")
    with without_passwords(other) as sent:
        assert sent == other


def test_what_is_recorded_keeps_the_rest():
    settings = compose("train", ["task=text", "tracking=mlflow", f"tracking.uri='{URI}'"])
    from mambalab import config

    recorded = config.as_recorded(settings)
    assert recorded.tracking.kind is TrackingKind.mlflow
    assert settings.tracking.uri == URI
    assert recorded.tracking.uri == "http://127.0.0.1:9/?token="
