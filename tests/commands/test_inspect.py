"""`mambalab inspect` on what training leaves behind."""

import base64
import json
import re

import numpy as np
import pytest
import torch

from mambalab.cli import main
from tests.lab import one_line, only_run, train

SMALL = ["model.d_model=16", "model.n_layer=2", "model.d_state=4", "trainer=smoke", "device=cpu"]
SMALL += ["trainer.max_steps=2", "tracking=jsonl"]


def data(path) -> dict:
    html = (path / "index.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])


@pytest.fixture(params=["mamba", "transformer", "hybrid"])
def trained(folder, request, capsys):
    """A folder with one trained run."""
    train(
        f"model={request.param}",
        "dropout=none",
        "precision=fp32",
        f"model.n_layer={4 if request.param == 'transformer' else 2}",
        "model.pattern=" + {"mamba": "M", "transformer": "SF", "hybrid": "MA"}[request.param],
    )
    capsys.readouterr()
    return only_run(folder)


def test_a_page_and_pictures(trained, folder, capsys):
    assert main.main(["inspect"]) == 0
    shown = capsys.readouterr()
    files = shown.out.split()
    assert f"open {files[0]} in a browser\n" in shown.err
    kinds = [layer["kind"] for layer in data(trained / "inspect")["layers"]]
    assert f"{trained.relative_to(folder)}/inspect/index.html" in files[0]
    assert any("delta.png" in f for f in files) == ("mamba" in kinds)
    assert any("attention.png" in f for f in files) == ("attention" in kinds)
    found = data(trained / "inspect")
    piece = "".join(found["labels"])
    text = (folder / "text.txt").read_text()
    assert piece in text[int(0.9 * len(text)) - 1 :]
    assert len(piece) == (32 if "attention" in kinds else 1000)
    assert ["text", "a piece of the validation split"] in found["facts"]


def test_a_given_text_and_its_loss(trained, capsys):
    page = trained.parents[3] / "elsewhere" / "index.html"
    page.parent.mkdir()
    page.write_text("of another text")
    assert main.main(["inspect", 'text="Line 5: the fox"', "out=elsewhere"]) == 0
    assert "in a browser; it replaces an older page, out=FOLDER" in capsys.readouterr().err
    found = data(page.parent)
    assert "".join(found["labels"]) == "Line 5: the fox"
    assert found["loss"][0] is None
    mean = dict(found["facts"])["loss on this text"].split()[0]
    assert np.mean(found["loss"][1:]) == pytest.approx(float(mean), abs=1e-3)
    assert len(found["guesses"]) == 15


def test_texts_that_cannot_be_read(trained, capsys, folder):
    assert main.main(["inspect", "text=naïve"]) == 1
    assert "U+00EF" in one_line(capsys)
    assert main.main(["inspect", "index=1"]) == 1
    assert "text=..." in one_line(capsys)
    assert main.main(["inspect", f"text={'the ' * 1001}"]) == 1
    assert "4,004 steps are more than inspect shows: at most 4,000" in one_line(capsys)
    status = main.main(["inspect", f"text={'the ' * 20}"])
    if "mamba" in str(trained):
        assert status == 0
    else:
        assert "80 tokens, but this model was trained on 32" in one_line(capsys)
    for words, message in ((["text="], "text is empty"), (["text=a", "index=1"], "not both")):
        capsys.readouterr()
        assert main.main(["inspect", *words]) == 2
        assert message in one_line(capsys)


def test_without_the_data_a_text_of_ours_is_read(trained, capsys, folder):
    (folder / "text.txt").unlink()
    assert main.main(["inspect"]) == 0
    found = data(trained / "inspect")
    assert "ours: the run's data are not where it found them" in dict(found["facts"])["text"]
    assert "".join(found["labels"]).startswith(
        "The old man" if "T" in found["labels"] else "he old"
    )


def test_a_folder_that_cannot_be_made(trained, capsys, folder):
    assert main.main(["inspect", "out=text.txt/x"]) == 1
    assert "name another with out=" in one_line(capsys)


def test_images_read_from_both_ends(folder, capsys):
    words = ["train", "task=digits", "task.input_dim=2", "task.permute=true", *SMALL]
    assert main.main([*words, "model.bidirectional=true"]) == 0
    capsys.readouterr()
    assert main.main(["inspect", "index=3"]) == 0
    assert "delta_image.png" in capsys.readouterr().out
    found = data(only_run(folder) / "inspect")
    assert [layer["name"] for layer in found["layers"][:2]] == [
        "layer 1, Mamba",
        "layer 1, Mamba, from the end",
    ]
    steps = np.array(found["image"]["steps"])
    assert found["image"]["shape"] == [8, 8, 1]
    assert np.bincount(steps).tolist() == [2] * 32  # each step reads two pixels, somewhere
    assert (np.diff(steps) < 0).any()
    assert len(base64.b64decode(found["image"]["b64"])) == 64
    assert {"true class", "the model says"} <= dict(found["facts"]).keys()
    assert main.main(["inspect", "index=100000"]) == 1
    assert "examples (0 to " in one_line(capsys)
    assert main.main(["inspect", "text=seven"]) == 1
    assert "task digits reads no text; index=N" in one_line(capsys)


def test_patches_lie_where_they_were_cut():
    from mambalab.inspect.examples import _layout

    class Patches:
        def sequence(self, images):
            tiles = images.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))
            return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    layout = _layout(Patches(), torch.zeros(3, 4, 4, dtype=torch.uint8))
    assert layout.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_synthetic_tasks_show_question_and_answer(folder, capsys):
    words = ["task=selective_copying", "task.seq_len=20", "task.copies=3", "task.eval_sequences=4"]
    assert main.main(["train", *words, *SMALL]) == 0
    capsys.readouterr()
    assert main.main(["inspect", "index=2"]) == 0
    found = data(only_run(folder) / "inspect")
    facts = dict(found["facts"])
    hidden = [token for token in found["labels"][:20] if token != "0"]
    assert facts["right answer"].split() == hidden
    assert len(facts["the model answers"].split()) == 3
    assert main.main(["inspect", "index=4"]) == 1
    assert "has 4 examples (0 to 3)" in one_line(capsys)


def test_both_texts_of_a_pair(folder, capsys):
    rows = "".join(f"{n % 2}\tabc {n}\tnaïve {n} def\n" for n in range(60))
    (folder / "pairs.tsv").write_text(rows)
    words = ["train", "task=pairs", "task.path=pairs.tsv", "task.max_bytes=16", *SMALL]
    assert main.main([*words, "task.batch_size=4", "model=hybrid", "model.pattern=MA"]) == 0
    capsys.readouterr()
    assert main.main(["inspect", "index=2"]) == 0
    found = data(only_run(folder) / "inspect")
    number = "".join(found["labels"][4 : found["second"]])
    assert "".join(found["labels"]) == f"abc {number}na\ufffd\ufffdve {number} def"
    mamba, attention = found["layers"]
    steps = len(found["labels"])
    assert mamba["channel_delta"]["shape"][1] == steps
    assert attention["weights"]["shape"][1:] == [steps, steps]


def test_some_layers_only(trained, capsys):
    for words, numbers in ((["layers=2"], "2"), (["layers=[2,1]"], "12"), (["layers=1,2"], "12")):
        assert main.main(["inspect", *words]) == 0
        found = data(trained / "inspect")
        assert "".join(layer["name"][6] for layer in found["layers"]) == numbers
    capsys.readouterr()
    assert main.main(["inspect", "layers=3"]) == 1
    assert "layers=[3]: this model has the layers 1 to 2" in one_line(capsys)
    for words, message in (("layers=[]", "name at least one"), ("layers=0", "at least 1")):
        assert main.main(["inspect", words]) == 2
        assert message in one_line(capsys)


def test_a_text_is_taken_as_it_stands(trained, capsys):
    assert main.main(["inspect", "text=the ${dog}"]) == 1
    assert "character '$'" in one_line(capsys)


def test_a_pretrained_model(folder, capsys):
    train("model=mamba", "dropout=none", "precision=fp32", "trainer.max_steps=2")
    run = only_run(folder)
    assert main.main(["export", "out=new/exported"]) == 0
    text = "text=Line 5: the fox"
    assert main.main(["inspect", text]) == 0
    assert main.main(["inspect", "pretrained=new/exported", text]) == 0
    ours, theirs = data(run / "inspect"), data(folder / "outputs/inspect/exported")
    for key in ("labels", "loss", "guesses"):
        assert ours[key] == theirs[key]
    assert ours["layers"] == theirs["layers"]
    assert dict(theirs["facts"])["checkpoint"] == "new/exported"
    assert dict(theirs["facts"])["model"] == "2 layers of width 16"
    assert main.main(["inspect", "pretrained=new/exported", "out=here"]) == 0
    assert "".join(data(folder / "here")["labels"]).startswith("he old")
    for words, status, message in (
        (["text=naïve"], 1, "U+00EF"),
        ([f"text={'the ' * 1001}"], 1, "4,004 steps are more than inspect shows"),
        (["index=1"], 2, "a pretrained model reads a text"),
        ([f"run={run}"], 2, "give one of them"),
        (["tokenizer=absent"], 1, "tokenizer=absent: there is no such file or folder"),
    ):
        capsys.readouterr()
        assert main.main(["inspect", "pretrained=new/exported", *words]) == status
        assert message in one_line(capsys)
    assert main.main(["inspect", "tokenizer=x"]) == 2
    assert "a run has its own" in one_line(capsys)
    assert main.main(["inspect", f"pretrained={run}"]) == 1
    assert "is a run, no checkpoint" in one_line(capsys)
