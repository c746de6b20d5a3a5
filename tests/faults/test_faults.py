"""A short selection of `make faults`: the most important kinds, once each, on one sort of run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SELECTION = (
    *("SIGKILL at a file event", "SIGKILL at a write", "SIGKILL at the end"),
    *("SIGTERM", "SIGHUP while training"),
    *("disk full: small tmpfs", "rights lost: EACCES at the k-th write"),
    *("newest checkpoint: truncated", "checkpoint of another run"),
    *("metrics.jsonl between sittings: empty", "summary.json damaged"),
    "folder copied, both go on: one after the other",
)
SEED = 1


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> dict[str, str]:
    """The promises that were broken, by kind, each with the command that repeats it."""
    folder = tmp_path_factory.mktemp("faults")
    words = [word for kind in SELECTION for word in ("--kind", kind)]
    options = ["--quick", "--tries", "1", "--seed", str(SEED), "--folder", str(folder)]
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults", *words, *options, "--out", str(folder / "out.json")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert (folder / "out.json").exists(), result.stdout + result.stderr
    record = json.loads((folder / "out.json").read_text())
    assert record["injections"] == len(SELECTION)
    return {x["kind"]: f"{x['broken']}; {x['repeat']} --quick" for x in record["broken"]}


@pytest.mark.parametrize("kind", SELECTION)
def test_the_promise_is_kept(kind, broken):
    assert kind not in broken, broken[kind]
