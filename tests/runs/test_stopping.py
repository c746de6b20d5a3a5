"""What a run that is asked to stop still does, and the hints at its end."""

import shlex

import pytest

from mambalab.runs import final_report
from mambalab.runs.callbacks import TextSample
from tests.lab import compose, rows, summary, train


def test_a_stop_is_heard_between_two_tokens_of_a_sample(folder, monkeypatch):
    assert train("run_dir=whole") == 0
    decide, asked = TextSample._noted, []

    def noted(self, token):
        asked.append(token)
        if len(asked) == 5:
            self.stop_requested = lambda: "SIGTERM"
        return decide(self, token)

    with monkeypatch.context() as patch:
        patch.setattr(TextSample, "_noted", noted)
        assert train("run_dir=cut") == 143
    assert len(asked) == 5
    cut = folder / "cut"
    facts = summary(cut)
    assert (facts["status"], facts["step"]) == ("KILLED", 6)
    assert not list(cut.glob("samples/*"))
    assert train("run_dir=cut") == 0
    assert rows(cut) == rows(folder / "whole")
    for name in ("step-00000006.txt", "step-00000012.txt"):
        assert (cut / "samples" / name).read_text() == (folder / "whole/samples" / name).read_text()
    assert summary(cut)["best"] == summary(folder / "whole")["best"]


@pytest.mark.parametrize("place", ["my out", "a;b", "$HOME/x", "it's"])
def test_the_hint_to_look_at_mlflow_can_be_pasted(folder, place):
    from mambalab.records.run_folder import RunFolder

    words = ["task=text", "tracking=mlflow", f'output_dir="{place}"']
    settings = compose("train", words)
    (folder / "mlflow_run.json").write_text('{"uid": "a", "run_id": "b"}')
    hint = final_report._tracker(settings, RunFolder(folder))
    assert hint is not None
    assert shlex.split(hint) == ["mambalab", "ui", f"output_dir={place}"]
