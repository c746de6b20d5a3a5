"""The profiler's trace: which steps, where, and that training is the same."""

import json

import pytest

from mambalab.train import profiling
from tests.train.toy import trainer


def test_a_trace_of_some_steps_and_the_same_numbers(tmp_path, caplog):
    run, lines = trainer(tmp_path / "on", profile=3)
    with caplog.at_level("INFO"):
        run.run()
    plain, without = trainer(tmp_path / "off")
    plain.run()
    assert lines.rows == without.rows
    assert not (tmp_path / "off/profile").exists()
    folder = tmp_path / "on/profile"
    assert sorted(p.name for p in folder.iterdir()) == ["operators.txt", "trace.json"]
    names = [e.get("name") for e in json.loads((folder / "trace.json").read_text())["traceEvents"]]
    assert sum("Optimizer.step" in str(name) for name in names) >= 3
    assert "aten::" in (folder / "operators.txt").read_text()
    assert caplog.text.count("profile of steps 11 to 13") == 1
    assert run.state.clock.timed_steps == 7  # those of the trace say no speed


@pytest.mark.parametrize(("stop_after", "traced"), [(12, "steps 11 to 12"), (10, None)])
def test_a_session_that_ends_before_has_a_trace_of_what_it_did(
    tmp_path, stop_after, traced, caplog
):
    run, _ = trainer(tmp_path, profile=True, stop_after=stop_after)
    run.run()
    table = tmp_path / "profile/operators.txt"
    assert table.exists() is (traced is not None)
    if traced:
        assert table.read_text().startswith(traced)
    assert ("no profile: this session did 10 steps" in caplog.text) is (traced is None)


def test_a_disk_that_refuses_costs_the_trace_alone(tmp_path, caplog, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profiling.files, "write_text", full)
    run, _ = trainer(tmp_path, profile=2)
    assert run.run().status == "FINISHED"
    assert "No space left on device" in caplog.text
