"""`generate`, `eval` and `doctor` on what training leaves behind."""

import json

import pytest

from mambalab import cli
from tests.commands.test_train import folder, one_line, only_run, summary, train  # noqa: F401


@pytest.fixture(params=["mamba", "transformer"])
def trained(folder, request, capsys):  # noqa: F811
    """A folder with one trained run."""
    train(f"model={request.param}", "dropout=none", "precision=fp32")
    capsys.readouterr()
    return only_run(folder)


def test_generate_streams_and_repeats(trained, capsys):
    texts = []
    for seed in (1, 1, 2):
        words = ["generate", 'prompt="Line 5: "', "max_new_tokens=40", f"seed={seed}"]
        assert cli.main(words) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("Line 5: ")
    assert len(texts[0]) == len("Line 5: ") + 40 + 1
    assert texts[0] == texts[1] != texts[2]


def test_several_samples_differ(trained, capsys):
    assert cli.main(["generate", "prompt=the", "num_samples=3", "max_new_tokens=30"]) == 0
    texts = [t.split("---")[-1] for t in capsys.readouterr().out.split("--- ")[1:]]
    assert len({*texts}) == 3


@pytest.mark.parametrize("prompt", ["", "naïve ☃"])
def test_prompts_that_cannot_be_read(trained, capsys, prompt):
    assert cli.main(["generate", f"prompt={prompt}"]) == 1
    assert "prompt is empty" in (line := one_line(capsys)) or "U+" in line


def test_a_long_prompt(trained, capsys):
    status = cli.main(["generate", f"prompt={'the ' * 20}", "max_new_tokens=3"])
    if "transformer" in str(trained):
        assert status == 1
        assert "trained on 32" in one_line(capsys)
    else:
        assert status == 0


def test_eval_repeats_the_best_validation(trained, capsys):
    assert cli.main(["eval", f"run={trained}"]) == 0
    shown = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(shown["val/loss"]) == pytest.approx(summary(trained)["best"]["val/loss"], abs=2e-6)
    assert cli.main(["eval", "split=train"]) == 0
    assert "train/loss" in capsys.readouterr().out


def test_eval_with_the_state_carried(trained, capsys):
    status = cli.main(["eval", "stateful=true"])
    if "transformer" in str(trained):
        assert status == 1
        assert "only Mamba" in one_line(capsys)
    else:
        assert status == 0
        assert "val/loss_stateful" in capsys.readouterr().out


def test_eval_on_other_data_or_splits(trained, capsys, folder):  # noqa: F811
    assert cli.main(["eval", "split=test"]) == 1
    assert "no split" in one_line(capsys)
    (folder / "text.txt").write_text("something else entirely " * 200)
    assert cli.main(["eval"]) == 1
    assert "not those" in one_line(capsys)


def test_damaged_runs(trained, capsys):
    (trained / "spec.json").write_text("{}")
    assert cli.main(["generate"]) == 1
    assert "spec.json" in one_line(capsys)
    spec = {"vocab_size": 5, "seq_len": 32}
    (trained / "spec.json").write_text(json.dumps(spec))
    assert cli.main(["generate"]) == 1
    assert "another model's checkpoint" in one_line(capsys)


def test_no_run_at_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate"]) == 1
    assert "no run" in one_line(capsys)


def test_doctor_finds_the_machine_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "device=cpu"]) == 0
    out = capsys.readouterr().out
    assert "right to" in out
    assert "!!" not in out
    (tmp_path / "file").touch()
    assert cli.main(["doctor", "output_dir=file"]) == 1
    assert "!!  outputs" in capsys.readouterr().out
