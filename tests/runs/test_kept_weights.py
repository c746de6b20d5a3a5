"""What a run with an average, kept steps, norms and a trace leaves behind, and how it is used."""

import json

import pytest
import torch

from mambalab import config, load
from mambalab.cli import main
from mambalab.config.compose import from_plain
from mambalab.errors import UserError
from mambalab.pretrained import model_card
from mambalab.pretrained.layout import Layout
from mambalab.runs import load as runs_load
from mambalab.settings.train import Precision
from mambalab.tokenization.tokenizer import load_from_run
from tests.lab import one_line, only_run, summary, train


def evaluated(capsys, *words) -> dict[str, str]:
    assert main.main(["eval", *words]) == 0
    rows = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line]
    return {name: text.strip() for name, text in rows}


def test_a_run_with_all_of_it(folder, capsys):
    more = ("trainer.ema=0.9", "trainer.keep=all", "trainer.norms=true", "trainer.profile=1")
    assert train("dropout=none", "precision=fp32", *more) == 0
    run = only_run(folder)
    err = capsys.readouterr().err
    assert "moving average (trainer.ema=0.9)" in err
    assert "profile of steps 11 to 11" in err
    assert summary(run)["ema"] == 0.9
    assert (run / "plots/norms.png").stat().st_size > 1000
    assert (run / "profile/trace.json").exists()
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert {f"norms/grad/backbone.layers.{n}" for n in (0, 1)} <= row.keys()

    best = evaluated(capsys, "split=val")
    assert best["weights"] == f"step {summary(run)['best']['step']}, average (ema 0.9)"
    assert float(best["val/loss"]) == pytest.approx(summary(run)["best"]["val/loss"], abs=2e-6)
    early = evaluated(capsys, "checkpoint=step_4")
    assert early["weights"] == "step 4, average (ema 0.9)"
    assert float(early["val/loss"]) > float(best["val/loss"])
    for verb in ("eval", "generate", "inspect", "export"):
        more = ["out=exported"] if verb == "export" else []
        assert main.main([verb, "checkpoint=step_5", *more]) == 1
        assert "step_4, step_8, step_12 (" in one_line(capsys)
    assert main.main(["eval", "checkpoint=worst"]) == 2
    assert "must be best, last or step_N" in one_line(capsys)
    assert main.main(["generate", "pretrained=x", "checkpoint=last"]) == 2
    assert "has a single one" in one_line(capsys)

    four, twelve = (load(run, checkpoint=name).model.state_dict() for name in ("step_4", "last"))
    name = "backbone.norm_f.weight"
    assert not torch.equal(four[name], twelve[name])
    with pytest.raises(UserError, match="must be best, last or step_N"):
        load(run, checkpoint="worst")
    loaded = runs_load.load_run(run, device="cpu", trust=[], which="step_4")
    card = model_card.text(
        config.to_plain(loaded.settings),
        loaded.summary.to_json(),
        step=4,
        parameters=1,
        layout=Layout.hf,
        tokenizer=load_from_run(run),
    )
    assert "| weights | moving average, decay 0.9 |" in card
    assert "| val/loss |" not in card  # that of other weights


def test_what_is_no_part_of_a_run_and_what_is():
    usual = config.run_dir(config.compose("train", []))
    for same in ("keep=all", "keep=3", "norms=true", "profile=4", "ema=0", "ema=null"):
        assert config.run_dir(config.compose("train", [f"trainer.{same}"])) == usual
    assert config.run_dir(config.compose("train", ["trainer.ema=0.9"])) != usual
    old = config.to_plain(config.compose("train", []))
    for key in ("keep", "ema", "norms", "profile"):
        del old["trainer"][key]
    found = from_plain(old).trainer
    assert (found.keep, found.ema, found.norms, found.profile) == ("best", None, False, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("keep=0", "must be best, all, or a whole number from 1 on"),
        ("keep=worst", "must be best, all, or a whole number from 1 on"),
        ("ema=1", "must be at least 0 and below 1"),
        ("profile=0", "must be at least 1 and at most 1000"),
        ("profile=often", "must be true, false or a whole number"),
    ],
)
def test_values_that_cannot_be(words, message):
    with pytest.raises(UserError, match=message):
        config.compose("train", [f"trainer.{words}"])


def test_fp16_is_kept_where_a_gpu_is():
    chosen = runs_load._precision("fp16", torch.device("cpu"))
    assert chosen is Precision.fp32
    assert runs_load._precision("fp16", torch.device("cuda")) is Precision.fp16
    assert runs_load._precision(None, torch.device("cpu")) is Precision.fp32
