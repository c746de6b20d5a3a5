"""Folders that the first version left behind go on as if nothing had happened.

`fixtures/first_house` was made by commit 399c06f: a run and a sweep, both stopped by SIGINT, and in
`expected` the metrics of the same two, never stopped. Other processors and other versions of torch
round differently, so numbers are compared closely, not to the bit.
"""

import json
import shutil
from pathlib import Path

import pytest

from mambalab.cli import main
from tests.lab import rows

FIXTURE = Path(__file__).parent / "fixtures/first_house"
RUN = "outputs/text/mamba/ssm-7e0a6486-s1"
SWEEP = "outputs/sweeps/text-340d101b"
OPTIONS = json.loads((FIXTURE / SWEEP / "sweep.json").read_text())["command"]


@pytest.fixture
def house(workdir):
    """A working directory with the old folders in it."""
    shutil.copytree(FIXTURE, workdir, dirs_exist_ok=True)
    return workdir


def expected(name: str) -> list[dict]:
    lines = (FIXTURE / "expected" / name).read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def assert_same_curve(run_dir: Path, name: str) -> None:
    found, wanted = rows(run_dir), expected(name)
    assert [row.keys() for row in found] == [row.keys() for row in wanted]
    before = len((FIXTURE / run_dir / "metrics.jsonl").read_text().splitlines())
    assert found[:before] == wanted[:before]
    for row, want in zip(found, wanted, strict=True):
        assert row == pytest.approx(want, rel=1e-3)


def test_a_stopped_run_goes_on_exactly(house, capsys):
    options = [o for o in OPTIONS if not o.startswith("seed=")]
    assert main.main(["train", *options]) == 0
    assert "going on from step 161" in capsys.readouterr().err
    assert_same_curve(Path(RUN), "run.jsonl")
    summary = json.loads(Path(RUN, "summary.json").read_text())
    assert summary["status"] == "FINISHED"
    assert summary["step"] == 600
    assert main.main(["train", *options]) == 0  # and is found again
    assert "finished already" in capsys.readouterr().err


def test_a_stopped_run_is_evaluated(house, capsys):
    options = ["split=val", "device=cpu", "path=text.txt"]
    assert main.main(["eval", f"run={RUN}", *options]) == 0
    out = capsys.readouterr().out
    assert "val/loss" in out
    assert "2.617" in out


def test_a_stopped_run_writes(house, capsys):
    assert main.main(["generate", f"run={RUN}", "prompt=Line", "max_new_tokens=5"]) == 0
    assert capsys.readouterr().out.startswith("Line")


def test_a_stopped_sweep_goes_on_and_is_compared(house, capfd):
    assert main.main(["train", "-m", *OPTIONS]) == 0
    assert_same_curve(Path(SWEEP, "seed=2"), "sweep.jsonl")
    jobs = json.loads(Path(SWEEP, "sweep.json").read_text())["jobs"]
    assert {job["status"] for job in jobs.values()} == {"FINISHED"}
    capfd.readouterr()
    assert main.main(["compare", "latest"]) == 0
    assert "only 2 seeds (model=mamba dropout=ssm)" in capfd.readouterr().out


def test_old_folders_are_sent_to_mlflow(house, store, capsys):
    assert main.main(["sync", RUN, SWEEP]) == 0
    mirrored = [Path(RUN, "mlflow_run.json"), Path(SWEEP, "seed=1", "mlflow_run.json")]
    assert all(json.loads(path.read_text())["run_id"] for path in mirrored)
