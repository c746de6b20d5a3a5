"""Runs of `task=diffusion`, from training to what they fill in: report, eval, compare, generate."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mambalab.cli import main
from mambalab.plots.sheet import GAP, captioned
from mambalab.runs import diffusion_pictures
from mambalab.tasks import pixels
from mambalab.tasks.text import ShakespeareTask
from mambalab.tokenization.pixels import PixelTokens
from tests.commands.test_generate_pictures import STEP, Digits, lower, pictures
from tests.lab import TEXT, one_line, rows, summary, train

SMALL = [
    *("dropout=none", "device=cpu", "precision=fp32", "model.d_model=8", "model.n_layer=1"),
    *("model.d_state=2", "task.batch_size=4", "task.eval_samples=2", "trainer.max_minutes=null"),
    *("trainer.eval_every=2", "trainer.checkpoint_every=2", "trainer.log_every=1"),
    *("tracking=jsonl", "optim.schedule=constant", "optim.warmup_steps=0"),
]
OF_PICTURES = [*SMALL, "task.val_size=9", "task.classes=true", "model.bidirectional=true"]
OF_TEXT = [*SMALL, "task.data=text", "task.seq_len=24", "model=transformer", "model.n_layer=2"]
HIDDEN = (70, 110, 190)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the runs `pictures` and `text`."""
    folder = tmp_path_factory.mktemp("diffusion")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(pixels._KNOWN, "digits", Digits)
        patch.setattr(ShakespeareTask, "read", lambda self: (TEXT[:2000], {"sha256": "0"}))
        words = ["train", "task=diffusion", *OF_PICTURES, "run_dir=pictures"]
        assert main.main([*words, "trainer.max_steps=2"]) == 0
        assert main.main([*words, "trainer.max_steps=4"]) == 0  # goes on
        words = ["train", "task=diffusion", *OF_TEXT, "run_dir=text"]
        assert main.main([*words, "trainer.max_steps=2"]) == 0
        values = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
        Image.fromarray(values).save("prompt.png")
        mask = np.zeros((4, 4), np.uint8)
        mask[1:3, 2:] = 255
        Image.fromarray(mask).save("mask.png")
        Image.new("L", (4, 4)).save("black.png")
        Image.fromarray(np.repeat(mask, 2, axis=1)).save("wide.png")
        Image.new("LA", (4, 4), (255, 0)).save("clear.png")
        Path("file").touch()
        yield folder


@pytest.fixture
def place(trained, monkeypatch):
    """The folder with the runs, as the working directory."""
    monkeypatch.chdir(trained)
    return trained


def generate(*words: str) -> int:
    return main.main(["generate", *words, "device=cpu"])


def test_training_measures_and_draws(place):
    points = [row for row in rows(place / "pictures") if "val/loss" in row]
    assert [row["step"] for row in points] == [2, 4]
    for row in points:
        assert row["val/nats_per_image"] == pytest.approx(16 * row["val/loss"])
        assert row["val/loss_stderr"] > 0
    test = summary(place / "pictures")["test"]
    assert {"test/loss", "test/loss_stderr", "test/bits_per_dim"} <= set(test)
    sheets = sorted(place.glob("pictures/samples/*"))
    assert [path.name for path in sheets] == ["step-00000002.png", "step-00000004.png"]
    assert sheets[0].read_bytes() != sheets[1].read_bytes()
    # Below 36 pictures: eight of the validation split, and the same with new lower halves.
    side = 4 * STEP + GAP
    below = lower(np.asarray(Image.open(sheets[1])))[:, GAP : GAP + 4 * STEP]
    true, completed = (below[at : at + 4 * STEP : STEP, ::STEP].astype(int) for at in (0, side))
    assert np.array_equal(true[:2], completed[:2])
    assert not np.array_equal(true[2:], completed[2:])
    measured = [row for row in rows(place / "text") if "val/loss" in row]
    assert measured[-1]["val/bits_per_char"] == pytest.approx(measured[-1]["val/loss"] / np.log(2))
    (sample,) = place.glob("text/samples/*.txt")
    assert len(sample.read_text()) == 24 + 1


def test_a_run_in_one_piece_is_the_same(place):
    words = ["train", "task=diffusion", *OF_PICTURES, "run_dir=whole", "trainer.sample_chars=0"]
    assert main.main([*words, "trainer.max_steps=4"]) == 0
    assert not (place / "whole" / "samples").exists()
    both = [{row["step"]: row for row in rows(place / name)} for name in ("whole", "pictures")]
    for step in (1, 2, 3, 4):
        known = [{k: v for k, v in each[step].items() if "loss" in k} for each in both]
        assert known[0] == known[1]
        assert known[0]


def test_pictures_are_made_and_completed(place, capsys):
    assert generate("run=pictures", "num_samples=7", "out=a.png", "batch=3") == 0
    out, err = capsys.readouterr()
    assert out == "a.png\n"
    assert re.search(r"^made 7 pictures in 16 steps, [\d,]+ values a second$", err, re.MULTILINE)
    found = pictures(place / "a.png", 7, columns=3, caption="a column a class: a, b, c")
    assert set(np.unique(found)) <= set(PixelTokens(17, 1, 1, 1)._shown.tolist())
    assert generate("run=pictures", "seed=5", "class=1", "out=b.png") == 0
    assert np.array_equal(pictures(place / "b.png", 1, columns=1)[0], found[4])  # seed 1 + 4
    tokens = PixelTokens(17, 4, 4, 1)
    values = torch.from_numpy(np.asarray(Image.open("prompt.png")).copy())
    shown = tokens.pictures(tokens.quantise(values[None, None]))[0, ..., 0].numpy()
    known = {"rows=3": np.arange(16).reshape(4, 4) < 12, "": np.arange(16).reshape(4, 4) < 8}
    known["mask_image=mask.png"] = np.asarray(Image.open("mask.png")) == 0
    for word, kept in known.items():
        more = [word] if word else []
        assert generate("run=pictures", "prompt_image=prompt.png", "num_samples=3", *more) == 0
        file = place / "pictures" / "generated.png"
        words = "first the given picture, then what the model made of it as a, b, c in turn"
        found = pictures(file, 4, columns=2, caption=words)
        assert np.array_equal(found[0], shown)  # the prompt comes first
        for one in found[1:]:
            assert np.array_equal(one[kept], shown[kept])
        assert not np.array_equal(found[1][~kept], found[2][~kept])


def test_masks_with_colours_and_files_that_are_read(place, capsys):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[1:3, 2:] = (0, 255, 0)  # lighter than half
    Image.fromarray(colours).save("green.png")
    given = ["run=pictures", "prompt_image=prompt.png", "mask_image=green.png", "class=a"]
    assert generate(*given) == 0
    assert "green.png has colours (25 % of its pixels): where" in capsys.readouterr().err
    for key, file in {"out": "prompt.png", "frames": "green.png", "animation": "green.png"}.items():
        name = "prompt_image" if file == "prompt.png" else "mask_image"
        before = (place / file).read_bytes()
        assert generate(*given, f"{key}={file}") == 1
        assert f"{key}={file} is {name}, which would be lost" in one_line(capsys)
        assert (place / file).read_bytes() == before
    (place / "p.txt").write_text("the ____")
    assert generate("run=text", "prompt_file=p.txt", "frames=p.txt") == 1
    assert "frames=p.txt is prompt_file, which would be lost" in one_line(capsys)
    assert (place / "p.txt").read_text() == "the ____"


def test_a_file_that_cannot_be_written_takes_the_others_with_it(place, capsys, monkeypatch):
    def full(path, *rest):
        raise OSError(28, "No space left on device", str(path))

    (place / "there.png").write_bytes(b"before")
    monkeypatch.setattr(diffusion_pictures.sheet, "write_moving", full)
    words = ["run=pictures", "out=new.png", "frames=there.png", "animation=m.png", "steps=2"]
    assert generate(*words) == 1
    assert "cannot write m.png: No space left on device" in one_line(capsys)
    assert not (place / "new.png").exists()
    assert (place / "there.png").exists()  # was there before


def test_what_blue_means_of_colours():
    tokens = PixelTokens(2, 1, 2, 3)
    mask = tokens.vocab_size
    stage = diffusion_pictures.stage_of(torch.tensor([[1, 1, mask, 1, 1, 1]]), tokens, mask)
    assert stage[0, 0].tolist() == [list(HIDDEN), [255, 255, 255]]


def test_stages_are_shown(place, capsys):
    words = ["run=pictures", "num_samples=2", "out=s.png", "frames=f.png", "animation=m.png"]
    assert generate(*words, "steps=4", "order=confidence") == 0
    assert capsys.readouterr().out == "s.png\nf.png\nm.png\n"
    side = 4 * STEP + GAP
    strip = np.empty((2 * side + GAP, 5 * side + GAP, 3))  # gaps, and after each of four steps
    words = "a row is a picture after 0, 1, 2, 3, 4 steps; blue is not filled in yet"
    found = np.asarray(Image.open("f.png"))
    assert np.array_equal(found[len(strip) :], captioned(strip, words)[len(strip) :])
    strip = found[: len(strip)]
    hidden = (strip[GAP::STEP, GAP::STEP] == HIDDEN).all(-1)
    counts = [
        int((strip[:, x : x + 4 * STEP] == HIDDEN).all(-1).sum()) // STEP**2
        for x in range(GAP, 5 * side, side)
    ]
    assert counts == [32, 24, 16, 8, 0]
    assert hidden.any()
    with Image.open("m.png") as moving:
        assert moving.n_frames == 5
        moving.seek(4)
        last = np.asarray(moving.convert("L"))
    sheet = np.asarray(Image.open("s.png"))  # with a caption, in which it is wider
    assert np.array_equal(last, sheet[: last.shape[0], : last.shape[1]])


def test_texts_are_filled_in(place, capsys):
    prompt = "the ____ brown f_x"
    assert generate("run=text", f"prompt={prompt}", "frames=f.txt", "steps=2") == 0
    out = capsys.readouterr().out
    assert re.fullmatch(r"(?s)the .{4} brown f.x\n", out)
    assert "_" not in out
    lines = (place / "f.txt").read_text().splitlines()
    assert lines[0] == f"    0  {prompt}"
    assert lines[1].count("_") == 3
    assert len(lines) == 3
    assert generate("run=text", "prompt=the", "num_samples=2", "json=true") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["tokens"], r["steps"], r["seed"], len(r["text"])) for r in records] == [
        (21, 21, 1, 24),
        (21, 21, 2, 24),
    ]
    assert generate("run=text", "gap=q", "prompt=the quick", "num_samples=2", "steps=9") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"(?s)--- 1 ---\nthe .uick\n--- 2 ---\nthe .uick\n", out)
    assert "steps=9 is taken as 1, one for each position to fill in" in err
    assert generate("run=text", "temperature=0", "max_new_tokens=3", "prompt=fox") == 0
    assert len(capsys.readouterr().out) == 3 + 3 + 1
    assert generate("run=text") == 0
    assert len(capsys.readouterr().out) == 24 + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run=pictures prompt=abc", "prompt=abc: pictures writes pictures, and this is for texts"),
        ("run=pictures gap=x", "gap=x: pictures writes pictures, and this is for texts"),
        ("run=pictures json=true", "json=true: pictures writes pictures"),
        ("run=pictures class=7", "class=7: no such class; there are: a, b, c"),
        ("run=pictures mask_image=mask.png", "mask_image=mask.png: of which picture"),
        (
            "run=pictures prompt_image=prompt.png mask_image=none.png",
            "mask_image=none.png does not",
        ),
        ("run=pictures prompt_image=prompt.png mask_image=black.png", "no pixel of it is white"),
        ("run=pictures prompt_image=prompt.png mask_image=clear.png", "no pixel of it is white"),
        (
            "run=pictures prompt_image=prompt.png mask_image=wide.png",
            "mask_image=wide.png has 8 x 4 pixels and prompt_image=prompt.png 4 x 4",
        ),
        ("run=pictures frames=file/f.png", "frames=file/f.png cannot be written: .*file is a file"),
        ("run=text frames=file/f.txt", "frames=file/f.txt cannot be written: .*file is a file"),
        ("run=pictures prompt_image=prompt.png mask_image=mask.png rows=2", "give one of them"),
        ("run=pictures prompt_image=prompt.png rows=4", "rows=4: pictures of pictures have 4 rows"),
        ("run=pictures frames=f.jpg", "frames=f.jpg: sheets are PNG files"),
        ("run=pictures animation=.", r"animation=\. is a folder"),
        ("run=pictures out=x.png frames=x.png", "out and frames are the same file x.png"),
        ("run=pictures order=best", "order=best"),
        ("run=pictures steps=0", "steps=0: must be at least 1"),
        ("run=text out=x.png", "out=x.png: text writes texts, and this is for pictures"),
        ("run=text animation=x.png", "animation=x.png: text writes texts"),
        ("run=text stop=x", "stop=x: text fills in, and this is for texts that are written"),
        ("run=text frames=x.png", "frames=x.png: stages of a text are lines of text"),
        ("run=text prompt=the_%quick", "character '%' .* is not among"),
        ("run=text prompt=" + 25 * "a", "the prompt has 25 characters, but this model was trained"),
        ("run=text prompt=the max_new_tokens=30", "=30: .* leaves room for 21 after the 3 of the"),
        ("run=text max_new_tokens=30", r"max_new_tokens=30: .* 24 .*leaves room for 24\b"),
        ("run=text prompt=" + 24 * "a", "leaves nothing to fill in"),
        ("run=text gap=ab", "gap=ab: must be one character"),
    ],
)
def test_what_is_refused(place, capsys, words, message):
    before = sorted(place.rglob("*"))
    assert generate(*words.split()) in (1, 2)
    assert re.search(message, one_line(capsys))
    assert sorted(place.rglob("*")) == before


def test_a_model_that_writes_onwards_fills_no_gaps(folder, capsys):
    train("trainer.max_steps=1", "model.n_layer=1", "trainer.sample_chars=0")
    capsys.readouterr()
    for words in ("steps=4", "order=random", "frames=a.png", "animation=a.png", "gap=x"):
        assert main.main(["generate", words]) == 1
        assert f"{words}: outputs" in (line := one_line(capsys))
        assert "this is for runs of task=diffusion, which fill in; leave it out" in line
    assert main.main(["generate", "prompt=the ____ fox"]) == 1
    assert "gaps are for runs of task=diffusion" in one_line(capsys)


def test_a_model_that_reads_one_way_is_refused(place, capsys):
    words = ["train", "task=diffusion", *SMALL, "run_dir=one_way", "model=mamba"]
    assert main.main(words) == 1
    message = "model.bidirectional=false: this task fills in what is hidden from both sides"
    assert message in one_line(capsys)
    assert not (place / "one_way" / "config.yaml").exists()


def test_other_verbs_know_these_runs(place, capsys):
    assert main.main(["eval", "run=pictures", "split=val", "device=cpu"]) == 0
    best = summary(place / "pictures")["best"]
    assert f"{best['val/bits_per_dim']:.6f}" in capsys.readouterr().out
    for name in ("pictures", "text"):
        assert main.main(["inspect", f"run={name}", "index=1", f"out=inspect_{name}"]) == 0
        page = (place / f"inspect_{name}" / "index.html").read_text()
        assert "loss on what is hidden" in page
        assert main.main(["inspect", f"run={name}", "index=99"]) == 1
        assert "index=99: the validation split of task diffusion has" in one_line(capsys)
        assert main.main(["inspect", f"run={name}", "text=the"]) == 1
        assert "text: task diffusion is asked for what is hidden" in one_line(capsys)
        assert main.main(["export", f"run={name}", "out=exported"]) == 1
        assert "its model is a Denoiser" in one_line(capsys)
    assert main.main(["report", "pictures", "out=report.html"]) == 0
    page = (place / "report.html").read_text()
    assert "upper bounds on the negative log likelihood" in page
    assert "pictures that the model wrote" in page
