"""`export`: other programs load what training left behind, and so does `pretrained=`."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from mambalab.cli import main
from mambalab.runs import language_model
from mambalab.settings.train import Precision
from tests.lab import TEXT, one_line, only_run, train


def read(name, **options):
    """What `pretrained=name` means, or `run=name`."""
    places = {"output_dir": Path("outputs"), "data_dir": Path("data"), "device": "cpu", "trust": []}
    return language_model.language_model(
        **{"run": "latest", **options}, **places, precision=Precision.fp32
    )


@pytest.fixture(params=["true", "false"], ids=["tied", "untied"])
def run(folder, request, capsys):
    """The folder of a trained run."""
    tied = f"model.tie_embeddings={request.param}"
    train("model=mamba", "dropout=ssm", tied, "optim.lr=0.02", "trainer.max_steps=30")
    capsys.readouterr()
    return only_run(folder)


def logits(source, text=TEXT[:300]):
    ids = torch.tensor([source.tokenizer.encode(text)])
    with torch.inference_mode():
        return source.model(ids)


@pytest.mark.parametrize("to", ["hf", "original"])
def test_there_and_back(run, capsys, to):
    assert main.main(["export", f"to={to}", "out=new/exported"]) == 0
    assert capsys.readouterr().out.startswith("new/exported: outputs/text/mamba/ssm-")
    before = read("", run=str(run))
    after = read("", pretrained="new/exported")
    assert after.tokenizer.vocab_size == before.tokenizer.vocab_size
    assert torch.equal(logits(before), logits(after))
    texts = []
    for source in (f"run={run}", "pretrained=new/exported"):
        assert main.main(["generate", source, "prompt=Line 5", "max_new_tokens=50"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert main.main(["generate", "pretrained=new/exported", "prompt=naïve"]) == 1
    assert "character 'ï' (U+00EF, number 3" in one_line(capsys)


def test_transformers_computes_the_same(run, tmp_path):
    transformers = pytest.importorskip("transformers")
    assert main.main(["export", "out=exported"]) == 0
    theirs, problems = transformers.MambaForCausalLM.from_pretrained(
        "exported", output_loading_info=True
    )
    assert not any(problems.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained("exported")
    ids = tokenizer(TEXT[:300], return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == TEXT[:300]
    ours = logits(read("", run=str(run)))
    with torch.inference_mode():
        worst = (theirs.eval()(ids).logits - ours).abs().max()
    assert worst < 1e-4
    prompt = tokenizer("Line 5", return_tensors="pt")
    written = theirs.generate(**prompt, max_new_tokens=40, do_sample=False)
    assert tokenizer.decode(written[0]).startswith("Line 5")
    theirs.save_pretrained("again")
    shutil.copy("exported/tokenizer.json", "again")
    assert torch.equal(logits(read("", pretrained="again")), ours)


def test_the_model_card(run):
    assert main.main(["export", "out=exported"]) == 0
    card = Path("exported/README.md").read_text()
    front, body = card.split("---\n")[1:3]
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert "| val/loss | " in body
    assert "| code revision | " in body
    settings = yaml.safe_load(body.split("```yaml\n")[1].partition("```")[0])
    assert settings["task"]["path"] == "text.txt"
    assert settings["dropout"]["ssm_p"] > 0
    assert str(run.parents[3]) not in card


def test_folders_that_are_in_use(run, folder, capsys):
    words = ["export", "out=exported"]
    assert main.main(words) == 0
    assert main.main(words) == 1
    assert "out=exported is not empty" in one_line(capsys)
    (folder / "exported/model.safetensors").write_text("old")
    assert main.main([*words, "overwrite=true", "to=original"]) == 0
    names = {path.name for path in (folder / "exported").iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "pytorch_model.bin",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    (folder / "exported/mine.txt").touch()
    assert main.main([*words, "overwrite=true"]) == 1
    assert "holds mine.txt, which no export wrote" in one_line(capsys)
    assert main.main(["export", "out=.", "overwrite=true"]) == 1
    assert "which no export wrote" in one_line(capsys)
    assert main.main(["export", "out=text.txt"]) == 1
    assert "is a file" in one_line(capsys)
    assert main.main(["export"]) == 2
    assert "export: where to? give a folder" in one_line(capsys)
    (folder / "empty").mkdir()
    assert main.main(["export", "out=empty"]) == 0
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model=transformer"], "has attention layers (pattern SF)"),
        (["model=transformer_equal_depth"], "has attention layers (pattern A)"),
        (["model=hybrid", "model.n_layer=3"], "has attention layers (pattern MMA)"),
        (["model=mamba", "model.norm_eps=1e-6"], "knows only 1e-05; use to=hf"),
    ],
)
def test_models_that_have_no_place_elsewhere(folder, capsys, options, message):
    train(*options, "dropout=none", "trainer.max_steps=2")
    assert main.main(["export", "out=exported", "to=original"]) == 1
    assert message in one_line(capsys)
    assert not (folder / "exported").exists()


def test_classifiers_have_no_place_elsewhere(folder, capsys):
    words = ["task=digits", "model=mamba", "model.d_model=16", "model.n_layer=1", "trainer=smoke"]
    assert main.main(["train", *words, "model.bidirectional=true", "tracking=none"]) == 0
    assert main.main(["export", "out=exported"]) == 1
    assert "its model is a Classifier; only language models" in one_line(capsys)


def test_pretrained_that_cannot_be(run, capsys, monkeypatch):
    words = ["generate", "prompt=x", "max_new_tokens=1"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main.main([*words, "pretrained=state-spaces/mamba-130m"]) == 1
    line = one_line(capsys)
    assert "HF_HUB_OFFLINE=1 forbids the network" in line
    assert "data/pretrained/state-spaces/mamba-130m" in line
    assert main.main([*words, f"run={run}", "pretrained=x/y"]) == 2
    assert "give one of them" in one_line(capsys)
    assert main.main([*words, "tokenizer=x/y"]) == 2
    assert "a run has its own" in one_line(capsys)
    assert main.main([*words, f"pretrained={run}"]) == 1
    assert "is a run, no checkpoint: give it as run=" in one_line(capsys)
    assert main.main(["export", "out=exported"]) == 0
    file = Path("exported/tokenizer.json")
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"]["☃"] = 5000
    file.write_text(json.dumps(tokenizer))
    assert main.main([*words, "pretrained=exported"]) == 1
    assert "has 5,001 tokens, the model in exported has" in one_line(capsys)


def test_an_export_is_no_run(run, capsys):
    before = os.umask(0o022)
    try:
        assert main.main(["export", "out=exported"]) == 0
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in Path("exported").iterdir()} == {0o644}
    for words in (["eval"], ["export", "out=x"], ["generate"], ["inspect"]):
        capsys.readouterr()
        assert main.main([*words, "run=exported"]) == 1
        assert one_line(capsys).endswith(
            "run=exported is a checkpoint, no run: generate and inspect read it with "
            "pretrained=exported"
        )
    assert main.main(["generate", "pretrained=."]) == 1
    assert "config.json is missing: . is no checkpoint; name a folder that" in one_line(capsys)
