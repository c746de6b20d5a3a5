"""Fine-tuning: a run that begins with a checkpoint's weights, sizes and tokenizer."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mambalab import config, evaluate, load
from mambalab.cli import main
from mambalab.pretrained.layout import Layout
from mambalab.runs import training as commands
from mambalab.sweep import plan
from tests.commands.test_export import logits, read
from tests.commands.test_inspect import data
from tests.lab import TEXT, TINY, one_line, rows, summary
from tests.runs.conftest import OTHER, ROWS

SHORT = [word for word in TINY if not word.startswith("model.")]
SHORT += ["tracking=jsonl", "precision=fp32", "optim.lr=1e-3", "optim.warmup_steps=0"]


def tune(*options: str) -> int:
    words = options if any("pretrained=" in o for o in options) else ("model.pretrained=ck",)
    return main.main(["train", *SHORT, "model=pretrained", *dict.fromkeys((*words, *options))])


def loss_of(source) -> float:
    """Nats per token of a model on the validation split, by a plain loop over its windows."""
    text = Path("text.txt").read_text()
    ids = torch.tensor(source.tokenizer.encode(text[int(0.9 * len(text)) :]))
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, 32):
            window = ids[start : start + 33]
            found = source.model(window[None, :-1])[0]
            total += float(F.cross_entropy(found, window[1:], reduction="sum"))
    return total / (len(ids) - 1)


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_run_begins_where_the_checkpoint_is(checkpoint, capsys, layout, tied):
    checkpoint(layout=layout, tie_embeddings=tied)
    assert tune("run_dir=run") == 0
    run = Path("run")
    recorded = [row for row in rows(run) if "val/loss" in row]
    assert [row["step"] for row in recorded] == [0, 6, 12]
    expected = loss_of(read("", pretrained="ck"))
    assert recorded[0]["val/loss"] == pytest.approx(expected, abs=1e-5)
    assert recorded[2]["val/loss"] < expected - 0.05
    assert f"before training: val/loss {expected:.4f}" in capsys.readouterr().err
    loaded = read("", run="run")
    assert loaded.model.lm_head.weight.shape == (ROWS, 24)
    assert (loaded.model.lm_head.weight is loaded.model.backbone.embedding.weight) == tied
    assert loaded.tokenizer.vocab_size < ROWS


def test_what_makes_it_worse_keeps_the_checkpoint_as_the_best(checkpoint):
    checkpoint()
    assert tune("run_dir=run", "optim.lr=3", "optim.grad_clip=null") == 0
    assert summary(Path("run"))["best"]["step"] == 0
    assert torch.equal(logits(read("", run="run"), OTHER), logits(read("", pretrained="ck"), OTHER))


def test_a_run_folder_needs_the_checkpoint_no_more(checkpoint, capsys, monkeypatch):
    checkpoint()
    assert tune("run_dir=run") == 0
    shutil.rmtree("ck")
    shutil.rmtree("made")
    capsys.readouterr()
    assert main.main(["eval", "run=run"]) == 0
    best = summary(Path("run"))["best"]
    assert f"{best['val/loss']:.6f}" in capsys.readouterr().out
    assert main.main(["generate", "run=run", "prompt=Line 5", "max_new_tokens=5"]) == 0
    assert capsys.readouterr().out.startswith("Line 5")
    assert main.main(["export", "run=run", "out=again"]) == 0
    assert "beginning with the weights of `ck`" in Path("again/README.md").read_text()
    again, ours = load("again", precision="fp32"), load("run", precision="fp32")
    assert again.tokenizer.encode(OTHER[:99]) == ours.tokenizer.encode(OTHER[:99])
    assert torch.equal(logits(again, OTHER[:99]), logits(ours, OTHER[:99]))
    assert loss_of(again) == pytest.approx(best["val/loss"], abs=1e-5)
    shutil.move("run", "elsewhere")
    assert main.main(["eval", "run=elsewhere"]) == 0
    Path("elsewhere/tokenizer.json").unlink()
    capsys.readouterr()
    assert main.main(["eval", "run=elsewhere"]) == 1
    assert "elsewhere/tokenizer.json is missing" in one_line(capsys)


def test_transformers_computes_the_same(checkpoint):
    transformers = pytest.importorskip("transformers", reason="the other program of this test")
    checkpoint()
    assert tune("run_dir=run", "trainer.max_steps=2") == 0
    assert main.main(["export", "run=run", "out=again"]) == 0
    theirs = transformers.MambaForCausalLM.from_pretrained("again").eval()
    ids = transformers.AutoTokenizer.from_pretrained("again")(OTHER[:300], return_tensors="pt")
    with torch.inference_mode():
        found = theirs(ids["input_ids"]).logits
    assert (found - logits(read("", run="run"), OTHER[:300])).abs().max() < 1e-4


def test_killed_at_any_step_and_resumed_equals_never_killed(checkpoint, monkeypatch):
    from mambalab.train.loop import Trainer

    class Killed(BaseException):
        pass

    checkpoint()
    assert tune("run_dir=whole", "dropout=ssm") == 0
    step = Trainer._train_step
    for killed_after in (0, 7):
        place = f"run_dir=cut{killed_after}"

        def stop(self, killed_after=killed_after):
            if self.state.step == killed_after:
                raise Killed
            step(self)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "_train_step", stop)
            with pytest.raises(Killed):
                tune(place, "dropout=ssm")
        shutil.move("ck", "away")
        assert tune(place, "dropout=ssm") == 0
        shutil.move("away", "ck")
        cut = Path(f"cut{killed_after}")
        assert rows(cut) == rows(Path("whole"))
        assert summary(cut)["checkpoint"] == summary(Path("whole"))["checkpoint"]
        for weights in ("best", "last"):
            ours, theirs = (
                next(Path(p, "checkpoints").glob(f"{weights}-*")) for p in (cut, "whole")
            )
            file = "model.safetensors"
            assert (ours / file).read_bytes() == (theirs / file).read_bytes()


def test_the_characters_of_an_export_are_used_again(checkpoint, capsys):
    symbols = "".join(sorted(set(TEXT + OTHER)))
    checkpoint(symbols=symbols)
    assert tune("run_dir=run") == 0
    first = rows(Path("run"))[0]
    assert first["val/bits_per_char"] == pytest.approx(first["val/loss"] / math.log(2), rel=1e-9)
    assert load("run").tokenizer.encode("Line") == [symbols.index(c) for c in "Line"]
    assert "tokenizer" not in summary(Path("run"))["data"]  # its tokens are characters
    Path("text.txt").write_text(OTHER + "naïve")
    capsys.readouterr()
    assert tune("run_dir=other") == 1
    line = one_line(capsys)
    place = f"number {len(OTHER) + 3} of the text)"  # of the whole, not of the validation split
    assert f"{Path('text.txt').absolute()}: character 'ï' (U+00EF, {place}" in line
    assert "replace it there, or name a tokenizer that has it with task.tokenizer=FILE" in line
    assert f"is not among the {len(symbols)} tokens of this model" in line
    assert not Path("other").exists()


def test_ssm_dropout_returns_to_the_values_of_a_new_model(checkpoint, monkeypatch):
    from mambalab.models.dropout import SSMDropout, s4d_real_log

    seen = []
    drop = SSMDropout.forward

    def watched(self, A_log, B, C):
        out = drop(self, A_log, B, C)
        if self.training and self.p:
            seen.append((A_log.detach().clone(), out[0].detach().clone()))
        return out

    monkeypatch.setattr(SSMDropout, "forward", watched)
    checkpoint()
    assert tune("run_dir=run", "dropout=ssm", "dropout.ssm_p=0.5", "trainer.max_steps=1") == 0
    given, used = seen[0]
    fresh = s4d_real_log(*given.shape)
    assert (given - fresh).abs().median() > 0.01  # the checkpoint's own
    reset = used != given
    assert 0.3 < reset.float().mean() < 0.7
    assert torch.equal(used[reset], fresh[reset])


def test_a_sweep_over_learning_rates(checkpoint, capsys):
    checkpoint()
    words = [word for word in SHORT if word not in ("optim.lr=1e-3", "trainer.max_steps=12")]
    words += [
        "model=pretrained",
        "model.pretrained=ck",
        "optim.lr=1e-2,1e-3",
        "trainer.max_steps=2",
    ]
    jobs = plan.plan([*words, "sweep.dir=sweep"]).jobs
    for job in jobs:  # here rather than in processes of their own, which take seconds to start
        assert commands.run(config.typed(job.config)) == 0
    first, second = (rows(job.run_dir) for job in jobs)
    assert first[0]["val/loss"] == second[0]["val/loss"]
    assert first[-1]["val/loss"] != second[-1]["val/loss"]
    assert main.main(["train", "-m", *words, "model.d_model=8"]) == 2
    assert "decides this; leave it out" in one_line(capsys)
    assert main.main(["compare", "sweep"]) == 0


def refused(capsys, *options: str, status: int = 1) -> str:
    """The line with which a run is refused, before anything is written."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert tune(*options) == status
    assert sorted(Path().rglob("*")) == before
    return one_line(capsys)


def test_what_the_checkpoint_decides_is_not_ours_to_choose(checkpoint, capsys):
    checkpoint()
    for word in ("model.d_model=128", "model.d_model=24", "model.n_layer=3", "model.dt_min=1e-4"):
        line = refused(capsys, word, status=2)
        assert f"{word}: the checkpoint model.pretrained=ck decides this; leave it out" in (
            line.replace("0.0001", "1e-4")
        )
    line = refused(capsys, "model=transformer")
    assert "model.pattern=SF: the checkpoint ck has M" in line
    assert "task.tokenizer=char: model.pretrained=ck has tokens of its own" in refused(
        capsys, "task.tokenizer=char"
    )
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/wide.yaml").write_text(
        "# @package _global_\nmodel: {d_model: 48}\n", encoding="ascii"
    )
    assert "model.d_model=48: the checkpoint ck has 24" in refused(capsys, "experiment=wide")


def test_checkpoints_that_cannot_be(checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    checkpoint()
    line = refused(capsys, "model.pretrained=", status=2)
    assert "model=pretrained needs model.pretrained=FOLDER (or owner/name on the hub)" in line
    assert "model.pretrained=absent: there is no such folder" in refused(
        capsys, "model.pretrained=absent"
    )
    line = refused(capsys, "model.pretrained=state-spaces/mamba-130m-hf")
    assert "model.pretrained=state-spaces/mamba-130m-hf: no such folder" in line
    assert "data/pretrained/state-spaces/mamba-130m-hf" in line
    assert "is a file: name the folder" in refused(capsys, "model.pretrained=text.txt")
    described = json.loads(Path("ck/config.json").read_text())
    Path("ck/config.json").write_text(json.dumps({**described, "model_type": "mamba2"}))
    assert "model_type='mamba2': only Mamba-1" in refused(capsys)
    Path("ck/config.json").write_text(json.dumps(described))
    weights = Path("ck/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:500])
    assert "model.safetensors is damaged or cut short" in refused(capsys)
    weights.unlink()
    assert "ck holds no weights" in refused(capsys)
    Path("ck/config.json").unlink()
    assert "config.json is missing: ck is no checkpoint" in refused(capsys)


def test_a_run_is_no_checkpoint(checkpoint, capsys):
    checkpoint()
    assert tune("run_dir=run", "trainer.max_steps=1") == 0
    assert "model.pretrained=run is a run: export it first" in refused(
        capsys, "model.pretrained=run"
    )


def test_only_texts_can_be_learned(checkpoint, capsys):
    checkpoint()
    words = ["train", "task=digits", "model=pretrained", "model.pretrained=ck", "device=cpu"]
    assert main.main(words) == 1
    assert "task digits predicts no text; fine-tuning is for task=text" in one_line(capsys)
    assert not Path("outputs").exists()


def test_tokenizers_that_do_not_fit(checkpoint, capsys):
    checkpoint()
    file = Path("ck/tokenizer.json")
    whole = file.read_text()
    more = json.loads(whole)
    more["model"]["vocab"]["snow"] = ROWS
    file.write_text(json.dumps(more))
    assert f"has {ROWS + 1} tokens, the model in ck has {ROWS} rows" in refused(capsys)
    file.write_text(whole[:200])
    assert "ck/tokenizer.json is damaged" in refused(capsys)
    file.unlink()
    assert "ck has no tokenizer.json: name one with task.tokenizer=FILE" in refused(capsys)
    line = refused(capsys, "task.tokenizer=absent")
    assert "task.tokenizer=absent: there is no such file or folder" in line
    assert "text.txt is no tokenizer.json" in refused(capsys, "task.tokenizer=text.txt")
    Path("other").mkdir()
    Path("other/tokenizer.json").write_text(whole)
    assert tune("task.tokenizer=other", "run_dir=run", "trainer.max_steps=1") == 0


def test_a_text_that_is_too_short_in_tokens(checkpoint, capsys):
    checkpoint()
    Path("text.txt").write_text(OTHER[:600])
    line = refused(capsys, "task.seq_len=50")
    assert "the val split of task text has" in line
    assert "tokens, but task.seq_len=50 needs one more than that: give a longer text" in line


@pytest.mark.parametrize("tokens", ["pairs", "characters"])
def test_inspect_reads_such_a_run(checkpoint, capsys, tokens):
    symbols = "".join(sorted(set(TEXT + OTHER)))
    checkpoint(symbols=symbols if tokens == "characters" else None)
    assert tune("run_dir=run", "trainer.max_steps=1") == 0
    shutil.rmtree("ck")
    assert main.main(["inspect", "run=run"]) == 0
    found = data(Path("run/inspect"))
    assert ["text", "a piece of the validation split"] in found["facts"]
    assert main.main(["inspect", "run=run", "text=Line 5: a fox jumps"]) == 0
    found = data(Path("run/inspect"))
    assert "".join(found["labels"]) == "Line 5: a fox jumps"
    assert (len(found["labels"]) == 19) == (tokens == "characters")
    mean, *unit = dict(found["facts"])["loss on this text"].split()
    assert unit[-1] == ("token" if tokens == "pairs" else "character")
    assert len(found["loss"]) == len(found["guesses"]) == len(found["labels"])
    assert sum(found["loss"][1:]) / (len(found["loss"]) - 1) == pytest.approx(float(mean), abs=1e-3)
    Path("text.txt").write_text(OTHER + "\N{SNOWMAN}")  # for which characters have no token
    capsys.readouterr()
    assert main.main(["eval", "run=run"]) == 1
    told = "was trained on: bring them back, or point data_dir or path to them"
    before, _, after = one_line(capsys).partition(told)
    assert before
    assert not after or after.startswith(" (description: ")  # what is not as it was comes last


def test_the_end_of_a_document_is_one_token_in_every_session(checkpoint):
    folder = checkpoint(layout=Layout.hf)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "eos_token_id": 7}))
    (folder / "tokenizer_config.json").unlink(missing_ok=True)  # so the checkpoint alone names it
    Path("d").mkdir()
    for number in range(30):
        (Path("d") / f"{number:02}.txt").write_text(OTHER[300 * number : 300 * (number + 1)])
    assert tune("task.path=d", "run_dir=run") == 0
    (*_, last) = [row for row in rows(Path("run")) if "val/loss" in row]
    found = evaluate("run", checkpoint="last")["val/loss"]
    assert found == pytest.approx(last["val/loss"], rel=1e-6)
    assert tune("task.path=d", "run_dir=run", "trainer.max_steps=18") == 0
    (*_, more) = [row for row in rows(Path("run")) if "val/loss" in row]
    found = evaluate("run", checkpoint="last")["val/loss"]
    assert found == pytest.approx(more["val/loss"], rel=1e-6)
