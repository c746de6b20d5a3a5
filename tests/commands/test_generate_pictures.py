"""A run of `task=pixels`, from training to its sheets: report, inspect, eval, generate."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mambalab import config
from mambalab.cli import main
from mambalab.generation.sampling import Sampling
from mambalab.plots.sheet import GAP, captioned
from mambalab.runs import pixel_model, pixel_sheet
from mambalab.tasks import pixels as module
from mambalab.tasks.digits import DigitsTask
from mambalab.tokenization.pixels import PixelTokens
from tests.lab import one_line, only_run, rows, summary, train
from tests.tasks.toys import Colour, Grey

RUN = [
    *("task=pixels", "task.val_size=9", "task.batch_size=4", "task.classes=true", "dropout=none"),
    *("model.d_model=8", "model.n_layer=1", "model.d_state=2", "device=cpu", "precision=fp32"),
    *("trainer.max_minutes=null", "trainer.eval_every=2", "trainer.checkpoint_every=2"),
    *("trainer.log_every=1", "tracking=jsonl", "optim.schedule=constant", "optim.warmup_steps=0"),
]
STEP = 16  # pixels of a sheet for a pixel of these pictures, which are 4 x 6


class Digits(Grey):
    """Pictures of 4 x 4 pixels."""

    def read(self):
        data = super().read()
        for part in (data.train, data.test):
            part.pixels = part.pixels[..., :4]
        return data


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one trained run."""
    folder = tmp_path_factory.mktemp("pixels")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(module._KNOWN, "digits", Digits)
        patch.setitem(module._KNOWN, "cifar10", Colour)
        assert main.main(["train", *RUN, "trainer.max_steps=2"]) == 0
        assert main.main(["train", *RUN, "trainer.max_steps=4"]) == 0  # goes on
        yield folder


@pytest.fixture
def run(trained, monkeypatch):
    """The run's folder, from its working directory."""
    monkeypatch.chdir(trained)
    return only_run(trained)


def pictures(path, count: int, columns: int, caption: str = "") -> np.ndarray:
    """The grey pictures (count, 4, 4) of a sheet, cut out again."""
    sheet = np.asarray(Image.open(path))
    side = 4 * STEP + GAP
    grid = np.empty((-(-count // columns) * side + GAP, min(columns, count) * side + GAP, 1))
    assert sheet.shape == (captioned(grid, caption) if caption else grid).shape[:2]
    places = [(GAP + n // columns * side, GAP + n % columns * side) for n in range(count)]
    return np.stack([sheet[y : y + 4 * STEP : STEP, x : x + 4 * STEP : STEP] for y, x in places])


def lower(sheet: np.ndarray) -> np.ndarray:
    """The eight pictures and their completions of a sheet that training draws."""
    grid = np.empty((2 * (4 * STEP + GAP), 8 * (4 * STEP + GAP) + GAP, 1))
    caption = len(captioned(grid, pixel_sheet._COMPLETED)) - len(grid)
    return sheet[-len(grid) - caption : -caption]


def test_training_measures_and_draws(run):
    points = rows(run)
    measured = [row for row in points if "val/bits_per_dim" in row]
    assert [row["step"] for row in measured] == [2, 4]
    for row in measured:
        assert row["val/nats_per_image"] == pytest.approx(16 * row["val/loss"])
        assert row["val/bits_per_dim"] == pytest.approx(row["val/loss"] / np.log(2))
    test = summary(run)["test"]
    assert {"test/loss", "test/bits_per_dim", "test/nats_per_image"} <= set(test)
    assert test["step"] == 4
    kept = PixelTokens(**json.loads((run / "pixels.json").read_text()))
    assert kept == PixelTokens(17, 4, 4, 1, ["a", "b", "c"])
    sheets = sorted(run.glob("samples/*"))
    assert [path.name for path in sheets] == ["step-00000002.png", "step-00000004.png"]
    assert sheets[0].read_bytes() != sheets[1].read_bytes()
    # Below the 36 pictures: eight of the validation split, and the same with new lower halves.
    task = module.PixelModelTask(_settings(run), seed=1, data_dir=run, data_fraction=1.0)
    task.prepare()
    true = task.tokens.pictures(task.levels["val"][:8])[..., 0].numpy()
    sheet = np.asarray(Image.open(sheets[1]))
    side = 4 * STEP + GAP
    below = lower(sheet)
    found = np.stack(
        [
            below[row * side : row * side + 4 * STEP : STEP, GAP + n * side :][:, : 4 * STEP : STEP]
            for row in (0, 1)
            for n in range(8)
        ]
    )
    assert np.array_equal(found[:8], true)
    assert np.array_equal(found[8:, :2], true[:, :2])
    assert not np.array_equal(found[8:, 2:], true[:, 2:])


def _settings(run):
    return config.typed(config.load_run_config(run, [])).task


def test_a_run_in_one_piece_is_the_same(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(["train", *RUN, "trainer.max_steps=4", "trainer.sample_chars=0"]) == 0
    whole = only_run(tmp_path)
    assert not (whole / "samples").exists()
    last = {row["step"]: row for row in rows(whole) if "val/loss" in row}[4]
    assert last == {row["step"]: row for row in rows(run) if "val/loss" in row}[4]


def test_generate_writes_a_sheet(run, capsys, tmp_path):
    assert main.main(["generate", "num_samples=7", f"out={tmp_path}/a.png", "batch=3"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/a.png\n"
    assert re.search(r"^wrote 7 pictures, [\d,]+ values a second$", err, re.MULTILINE)
    turns = "a column a class: a, b, c"
    found = pictures(tmp_path / "a.png", 7, columns=3, caption=turns)
    assert set(np.unique(found)) <= set(PixelTokens(17, 1, 1, 1)._shown.tolist())
    again = ["generate", "num_samples=1", "seed=5", "class=1", f"out={tmp_path}/b.png"]
    assert main.main(again) == 0
    alone = pictures(tmp_path / "b.png", 1, columns=1)
    assert np.array_equal(alone[0], found[4])  # seed 1 + 4, class 4 % 3
    assert main.main([*again, "class=c"]) == 0
    assert main.main(["generate", "temperature=0", "num_samples=2"]) == 0
    two = "a column a class: a, b"
    greedy = pictures(run / "generated.png", 2, columns=3, caption=two)
    assert main.main(["generate", "temperature=0", "num_samples=2", "seed=9"]) == 0
    again = pictures(run / "generated.png", 2, columns=3, caption=two)
    assert np.array_equal(again, greedy)


def test_models_with_learned_positions_write_too(tmp_path, trained, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(module._KNOWN, "digits", Digits)
    words = ["train", *RUN, "trainer.max_steps=2", "model.position_embedding=true"]
    assert main.main(words) == 0
    run = only_run(tmp_path)
    assert len(list(run.glob("samples/*.png"))) == 1
    source = pixel_model.load(run, device="cpu", precision="fp32", trust=[], which="best")
    assert source.model.backbone.positions.shape == (16, 8)
    labels = torch.tensor([0, 1, 2])
    found = source.pictures(labels, rules=Sampling(temperature=0.0, allowed=17), seed=1)
    written = source.tokens.first(labels)[:, None]
    with torch.inference_mode():  # every value from the whole picture so far, without a state
        for _ in range(16):
            best = source.model(written)[:, -1, :17].argmax(-1)
            written = torch.cat((written, best[:, None]), 1)
    assert np.array_equal(found.numpy(), source.tokens.pictures(written[:, 1:]).numpy())
    assert main.main(["generate", "num_samples=3", "out=a.png"]) == 0
    assert main.main(["eval", "split=test"]) == 0
    (run / "spec.json").unlink()  # made again from a checkpoint
    assert main.main(["generate", "num_samples=3", "out=b.png"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_generate_completes_a_picture(run, capsys, tmp_path):
    values = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(values).save(tmp_path / "prompt.png")
    words = ["generate", f"prompt_image={tmp_path}/prompt.png", f"out={tmp_path}/a.png"]
    tokens = PixelTokens(17, 4, 4, 1)
    shown = tokens.pictures(tokens.quantise(torch.from_numpy(values)[None, None]))[0, ..., 0]
    words_below = "first the given picture, then what the model made of it as a, b, c in turn"
    for more, kept in ([], 2), (["rows=3"], 3):
        assert main.main([*words, "num_samples=3", *more]) == 0
        # The prompt comes first.
        found = pictures(tmp_path / "a.png", 4, columns=2, caption=words_below)
        assert np.array_equal(found[0], shown.numpy())
        assert np.array_equal(found[1:, :kept], np.stack(3 * [shown.numpy()[:kept]]))
        assert not np.array_equal(found[1, kept:], found[2, kept:])
    said = capsys.readouterr().err
    assert said.count("prompt.png is completed as each class in turn (a, b, c): class=...") == 2
    assert main.main(words) == 0
    assert "prompt.png is completed as class a: class=..." in capsys.readouterr().err
    assert main.main([*words, "class=b"]) == 0
    assert "completed" not in capsys.readouterr().err
    pictures(tmp_path / "a.png", 2, columns=2, caption=words_below.partition(" as ")[0])


def test_what_is_made_of_a_given_picture_is_said(run, capsys, tmp_path):
    clear = Image.new("LA", (9, 4), (255, 0))
    clear.save(tmp_path / "clear.png")
    assert main.main(["generate", f"prompt_image={tmp_path}/clear.png", "class=a"]) == 0
    said = capsys.readouterr().err
    assert "clear.png has 9 x 4 pixels: the 4 x 4 in its middle are taken" in said
    assert "clear.png is transparent in places: they are taken as grey level 255 of 255" in said
    frames = [Image.new("L", (4, 4), grey) for grey in (0, 255)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert main.main(["generate", f"prompt_image={tmp_path}/two.gif", "class=a"]) == 0
    assert "two.gif holds several pictures: the first is taken" in capsys.readouterr().err


def test_no_file_that_is_read_is_written_over(run, capsys, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "p.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "p.png")
    before = (tmp_path / "p.png").read_bytes()
    for name in ("p.png", "link.png"):
        words = [f"prompt_image={tmp_path}/p.png", f"out={tmp_path}/{name}"]
        assert main.main(["generate", *words]) == 1
        assert f"out={tmp_path}/{name} is prompt_image, which would be lost" in one_line(capsys)
    Image.new("L", (4, 4)).save(run / "generated.png")
    assert main.main(["generate", f"prompt_image={run}/generated.png"]) == 1
    assert "name another with out=" in one_line(capsys)
    assert (tmp_path / "p.png").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prompt=abc", "prompt=abc: .* writes pictures, and this is for texts; leave it out"),
        ("max_new_tokens=9", "max_new_tokens=9: .* writes pictures"),
        ("json=true", "json=true: .* writes pictures"),
        ("stop=x", "stop=x: .* writes pictures"),
        ("repetition_penalty=1.5", r"repetition_penalty=1.5: .* writes pictures"),
        ("num_samples=100000000", "num_samples=100,000,000: a sheet of so many .* ask for 19,"),
        ("class=7", "class=7: no such class; there are: a, b, c"),
        ("rows=2", "rows=2: of which picture"),
        ("prompt_image=none.png", "prompt_image=none.png does not exist"),
        ("prompt_image=.", r"prompt_image=\. is a folder"),
        ("prompt_image=text.txt", "cannot be read as an image"),
        ("out=.", r"out=\. is a folder: name a file in it, such as sheet.png"),
        ("out=sheet.jpg", "out=sheet.jpg: sheets are PNG files"),
        ("out=text.txt/a.png", "out=text.txt/a.png cannot be written: .*text.txt is a file"),
        ("prompt_image=p.png rows=4", "rows=4: pictures of .* have 4 rows, of which at least one"),
    ],
)
def test_what_generate_refuses_of_pictures(run, trained, capsys, words, message):
    (trained / "text.txt").write_text("no picture")
    Image.new("L", (4, 4)).save(trained / "p.png")
    before = sorted(run.rglob("*"))
    assert main.main(["generate", *words.split()]) in (1, 2)
    assert re.search(message, one_line(capsys))
    assert sorted(run.rglob("*")) == before


def test_a_run_that_lost_what_its_tokens_mean_says_so(run, capsys):
    kept = (run / "pixels.json").rename(run / "kept.json")
    try:
        for words in ([], ["out=a.png"]):
            assert main.main(["generate", *words]) == 1
            assert "has lost pixels.json, which says what its tokens mean" in one_line(capsys)
    finally:
        kept.rename(run / "pixels.json")


def test_a_run_on_texts_refuses_what_is_for_pictures(folder, capsys):
    train("trainer.max_steps=1", "model.n_layer=1", "trainer.sample_chars=0")
    capsys.readouterr()
    for words in ("out=a.png", "class=3", "prompt_image=a.png"):
        assert main.main(["generate", words]) == 1
        expected = rf"{words}: .* writes texts, and this is for pictures; leave it"
        assert re.search(expected, one_line(capsys))
    assert main.main(["generate", "pretrained=some", "out=a.png"]) == 2
    assert "out=a.png: pretrained=some writes texts" in one_line(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("task=pixels model.bidirectional=true", "this task predicts each token from those before"),
        ("task=pixels task.data=mnist task.size=90", "the pictures of task.data=mnist have 28 x"),
        ("task=diffusion model=mamba", "model=mamba reads one way only"),
    ],
)
def test_a_model_that_cannot_do_it_is_refused_before_the_data_are_read(
    folder, capsys, monkeypatch, words, message
):
    def read(self, device):
        raise AssertionError("the data are read")

    monkeypatch.setitem(module._KNOWN, "digits", DigitsTask)
    monkeypatch.setattr(module.PixelModelTask, "prepare", read)
    assert main.main(["train", *words.split(), "tracking=jsonl", "trainer.max_steps=1"]) == 1
    assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("classes", "count", "columns"),
    [
        (2, 36, 6),
        (3, 7, 3),
        (10, 36, 10),
        (16, 36, 16),
        (2, 1, 2),
        (17, 36, None),
        (1, 9, None),
        (9, 4, 9),
    ],
)
def test_a_row_of_a_sheet_has_each_class_equally_often(classes, count, columns):
    names = tuple("abcdefghijklmnopq"[:classes])
    assert pixel_sheet.columns(names, count) == columns
    tokens = PixelTokens(2, 1, 1, 1, names)
    told = pixel_sheet.caption(tokens, None, count, None)
    again = ", and so on" if columns == 6 else ""
    shown = "class a" if count == 1 else f"a column a class: {', '.join(names[:count])}{again}"
    assert told == (shown if columns else None)


def test_the_report_shows_the_last_sheet(run, capsys, tmp_path):
    assert main.main(["report", f"out={tmp_path}/report.html"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "after 4 steps: pictures that the model wrote" in page
    assert "Samples of text" not in page
    data = (run / "samples" / "step-00000004.png").read_bytes()
    assert base64.b64encode(data).decode() in page


def test_eval_and_inspect_read_the_pictures_again(run, capsys, tmp_path):
    assert main.main(["eval", "split=val"]) == 0
    shown = capsys.readouterr().out
    best = summary(run)["best"]
    assert f"{best['val/bits_per_dim']:.6f}" in shown
    assert main.main(["inspect", "index=1", f"out={tmp_path}"]) == 0
    assert (tmp_path / "delta_image.png").is_file()
    page = (tmp_path / "index.html").read_text()
    assert "bits per value" in page
    assert '["told", "class ' in page or '["told","class ' in page
    assert main.main(["export", f"out={tmp_path}/hf"]) == 1
    assert "that kind writes texts, and task pixels has none" in one_line(capsys)
    assert main.main(["inspect", "index=9"]) == 1
    assert "index=9: the validation split of task pixels has 9 examples" in one_line(capsys)


def test_a_folder_of_pictures_that_was_moved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(12):
        Image.new("L", (6, 6), 20 * number).save(tmp_path / f"photos/{number}.png")
    more = ["task.data=photos", "task.size=4", "task.val_size=2", "task.classes=false"]
    assert main.main(["train", *RUN, *more, "trainer.max_steps=2"]) == 0
    (tmp_path / "photos").rename(tmp_path / "pictures")
    capsys.readouterr()
    for verb in ("inspect", "eval"):
        assert main.main([verb]) == 1
        assert "photos: not found, which is task.data=photos of" in (line := one_line(capsys))
        assert "name the place where it lies now with path=FILE_OR_FOLDER" in line
        assert main.main([verb, "path=pictures"]) == 0
        capsys.readouterr()
    assert main.main(["inspect", "path=pictures", "text=abc"]) == 2
    assert "path=pictures: with text no data are read" in one_line(capsys)
