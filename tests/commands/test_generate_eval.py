"""`generate`, `eval` and `doctor` on what training leaves behind."""

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest

from mambalab.cli import main
from mambalab.commands import generate
from tests.lab import compose, one_line, only_run, summary, train


@pytest.fixture(params=["mamba", "transformer"])
def trained(folder, request, capsys):
    """A folder with one trained run."""
    train(f"model={request.param}", "dropout=none", "precision=fp32")
    capsys.readouterr()
    return only_run(folder)


def test_generate_streams_and_repeats(trained, capsys):
    texts = []
    for seed in (1, 1, 2):
        words = ["generate", 'prompt="Line 5: "', "max_new_tokens=40", f"seed={seed}"]
        assert main.main(words) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("Line 5: ")
    assert len(texts[0]) == len("Line 5: ") + 40 + 1
    assert texts[0] == texts[1] != texts[2]


def test_several_samples_differ(trained, capsys):
    assert main.main(["generate", "prompt=the", "num_samples=3", "max_new_tokens=30"]) == 0
    texts = [t.split("---")[-1] for t in capsys.readouterr().out.split("--- ")[1:]]
    assert len({*texts}) == 3


def test_writing_without_the_compiled_kernels_is_announced(trained, capsys, monkeypatch):
    monkeypatch.setattr("mambalab.ops.backend._numba_obstacle", lambda: "numba is not here")
    assert main.main(["generate", "max_new_tokens=3"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said.count("writing without the compiled CPU kernels: numba is not here") == 1


def test_texts_as_json(trained, capsys, folder):
    (folder / "prompts.txt").write_text("Line 5\n\nthe quick\n  \nfox\n")
    words = ["generate", "json=true", "max_new_tokens=15", "num_samples=2", "batch=4"]
    assert main.main([*words, "prompt_file=prompts.txt", "each_line=true", "seed=3"]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    prompts = ["Line 5", "the quick", "fox"]
    assert [f["prompt"] for f in found] == [p for p in prompts for _ in range(2)]
    assert [f["seed"] for f in found] == [3, 4, 5, 6, 7, 8]
    assert {(len(f["text"]), f["tokens"], f["stopped_by"]) for f in found} == {(15, 15, "length")}
    assert "a second" in err
    assert main.main(["generate", "prompt=fox", "max_new_tokens=15", "seed=7"]) == 0
    assert capsys.readouterr().out == f"fox{found[4]['text']}\n"


def test_a_stop_string_ends_the_text(trained, capsys):
    words = ["generate", "prompt=the", "max_new_tokens=200", "temperature=0"]
    assert main.main(words) == 0
    whole = capsys.readouterr().out[3:-1]
    stop = whole[40:43]
    assert main.main([*words, f'stop="{stop}"']) == 0
    assert capsys.readouterr().out[3:-1] == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("folder", "p.txt is a folder: name a text file"),
        (b"", "it is empty"),
        (b"caf\xe9", "not UTF-8 at byte 3"),
    ],
)
def test_prompt_files_that_cannot_be_read(trained, capsys, folder, content, message):
    if content == "folder":
        (folder / "p.txt").mkdir()
    elif content is not None:
        (folder / "p.txt").write_bytes(content)
    assert main.main(["generate", "prompt_file=p.txt"]) == 1
    assert message in one_line(capsys)


@pytest.mark.parametrize("prompt", ["", "naïve ☃"])
def test_prompts_that_cannot_be_read(trained, capsys, prompt):
    assert main.main(["generate", f"prompt={prompt}"]) == 1
    assert "prompt is empty" in (line := one_line(capsys)) or "U+" in line


def test_a_long_prompt(trained, capsys):
    status = main.main(["generate", f"prompt={'the ' * 20}", "max_new_tokens=3"])
    if "transformer" in str(trained):
        assert status == 1
        assert "trained on 32" in one_line(capsys)
    else:
        assert status == 0


def test_eval_repeats_the_best_validation(trained, capsys):
    assert main.main(["eval", f"run={trained}"]) == 0
    shown = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(shown["val/loss"]) == pytest.approx(summary(trained)["best"]["val/loss"], abs=2e-6)
    assert main.main(["eval", "split=train"]) == 0
    assert "train/loss" in capsys.readouterr().out


def test_eval_with_the_state_carried(trained, capsys):
    status = main.main(["eval", "stateful=true"])
    if "transformer" in str(trained):
        assert status == 1
        assert "only Mamba" in one_line(capsys)
    else:
        assert status == 0
        assert "val/loss_stateful" in capsys.readouterr().out


def test_eval_on_other_data_or_splits(trained, capsys, folder):
    assert main.main(["eval", "split=test"]) == 1
    assert one_line(capsys).endswith("no such split; it has: train, val, train_sample")
    assert main.main(["eval", "split=train_sample"]) == 0
    assert "train_sample/loss" in capsys.readouterr().out
    (folder / "text.txt").write_text("something else entirely " * 200)
    assert main.main(["eval"]) == 1
    assert "not those" in one_line(capsys)


def test_eval_of_a_file_that_lies_elsewhere_now(trained, capsys, folder, monkeypatch):
    (folder / "other").mkdir()
    (folder / "other" / "text.txt").write_text("of the same name, but another\n" * 200)
    with monkeypatch.context() as there:
        there.chdir(folder / "other")
        assert main.main(["eval", f"run=../{trained.relative_to(folder)}"]) == 0
        assert "val/loss" in capsys.readouterr().out
    (folder / "text.txt").rename(folder / "moved.txt")
    assert main.main(["eval"]) == 1
    line = one_line(capsys)
    assert f"{folder / 'text.txt'}: not found, which is task.path=text.txt of" in line
    assert "path=FILE" in line
    assert main.main(["eval", "path=moved.txt"]) == 0
    assert "val/loss" in capsys.readouterr().out
    assert main.main(["eval", "path=absent.txt"]) == 1
    assert "there is no file" in one_line(capsys)


OWN = """\
from mambalab.tasks.text import TextTask
from mambalab.data.text_files import read_text


class Own(TextTask):
    def read(self):
        text, sha256 = read_text(self.data_dir / "text.txt")
        return text, {"sha256": sha256}
"""


def test_eval_finds_the_data_where_training_did(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    (folder / "conf/task").mkdir(parents=True)
    task = "defaults: [text, _self_]\n_target_: own_eval_tasks.Own\n"
    (folder / "conf/task/own.yaml").write_text(task)
    (folder / "own_eval_tasks.py").write_text(OWN)
    assert (
        train("task=own", "task.path=null", "data_dir=.", "model=transformer", "dropout=none") == 0
    )
    run = only_run(folder)
    assert f"data_dir: {folder}\n" in (run / "config.yaml").read_text()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    line = ["eval", f"run={run}", "trust=own_eval_tasks"]
    capsys.readouterr()
    assert main.main(line) == 0
    assert main.main([*line, "data_dir=."]) == 1
    monkeypatch.setenv("MAMBALAB_DATA_DIR", ".")
    capsys.readouterr()
    assert main.main(line) == 1
    assert "elsewhere/text.txt" in one_line(capsys)


def test_eval_with_a_path_for_a_task_that_has_none(folder, capsys):
    options = ["task=induction_heads", "task.seq_len=8", "task.eval_sequences=4", "task.longest=2"]
    options += ["model=transformer", "dropout=none", "model.d_model=16", "model.n_layer=2"]
    options += ["trainer=smoke", "trainer.max_steps=4", "device=cpu", "tracking=jsonl"]
    assert main.main(["train", *options]) == 0
    capsys.readouterr()
    assert main.main(["eval", "path=x"]) == 1
    assert "task induction_heads has no task.path to replace" in one_line(capsys)
    assert main.main(["generate"]) == 1
    assert "its task induction_heads has no vocabulary" in one_line(capsys)


def test_a_damaged_best_checkpoint_may_be_deleted(trained, capsys):
    (best,) = trained.glob("checkpoints/best-*")
    path = best / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for verb in ("eval", "generate"):
        assert main.main([verb]) == 1
        assert "delete that folder, and the last weights take its place" in one_line(capsys)
    shutil.rmtree(best)
    assert main.main(["eval"]) == 0


def test_damaged_runs(trained, capsys):
    (trained / "spec.json").write_text("{}")
    assert main.main(["generate", "max_new_tokens=3"]) == 0
    told = capsys.readouterr().err
    assert "spec.json is missing or damaged: its content is taken from a checkpoint" in told
    spec = {"vocab_size": 5, "seq_len": 32}
    (trained / "spec.json").write_text(json.dumps(spec))
    assert main.main(["generate"]) == 1
    assert "another model's checkpoint" in one_line(capsys)


def test_no_run_at_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["generate"]) == 1
    assert "no run" in one_line(capsys)


def test_doctor_finds_the_machine_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["doctor", "device=cpu"]) == 0
    out = capsys.readouterr().out
    assert "right to" in out
    assert "!!" not in out
    (tmp_path / "file").touch()
    assert main.main(["doctor", "output_dir=file"]) == 1
    assert "!!  outputs" in capsys.readouterr().out


def test_doctor_names_what_is_wrong_with_data_and_outputs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/tinyshakespeare").mkdir(parents=True)
    (tmp_path / "data/tinyshakespeare/input.txt").write_text("not the Bard")
    locked = tmp_path / "locked"
    locked.mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and access(path, mode))
    assert main.main(["doctor", "device=cpu", "data_dir=data", f"output_dir={locked}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (data,) = (line for line in lines if "shakespeare" in line)
    assert data.startswith("!!  data")
    assert "input.txt is not the published file" in data
    (outputs,) = (line for line in lines if line[4:].startswith("outputs"))
    assert outputs.startswith("!!")
    assert f"output_dir={locked}: {locked} is not writable; choose another folder" in outputs


STOPS = [r"\n", "\n", r'"\n"', r'["\n"]', "['\n']", r"[\n]", r"###,\n", r"[###, '\n']"]


@pytest.mark.parametrize("stop", STOPS)
def test_every_way_to_write_a_line_end_as_stop(stop):
    settings = compose("generate", [f"stop={stop}"])
    assert settings.stop[-1:] == ["\n"]
    assert settings.stop[:-1] == (["###"] if "#" in stop else [])


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"a\nb", "a\nb"),
        ('"a\\nb"', "a\nb"),
        (r"\ta", "\ta"),
        (r"a\\nb", r"a\nb"),
        (r"'a\\nb'", r"a\nb"),
        (r"C:\dir", r"C:\dir"),
        ('"a\\"\\\\"', 'a"\\'),
        ("ends in \\", "ends in \\"),
        (r"\\${x}", r"\${x}"),
        ("'${x}'", "${x}"),
        ("it's, [a] {b}", "it's, [a] {b}"),
    ],
)
def test_escapes_in_a_prompt(written, meant):
    assert compose("generate", [f"prompt={written}"]).prompt == meant
    assert compose("inspect", [f"text={written}"]).text == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"a\,b,c", ["a,b", "c"]),
        (r"[a\,b, c]", ["a,b", "c"]),
        ('"a,b",c', ["a,b", "c"]),
        (r"\\n", [r"\n"]),
        (r"[\\n]", [r"\n"]),
        ("[]", []),
        ("}", ["}"]),
        (" . ", [" . "]),
        ("${x},it's", ["${x}", "it's"]),
    ],
)
def test_stop_strings(written, meant):
    assert compose("generate", [f"stop={written}"]).stop == meant


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stop="], "stop=['']: must be texts of at least one character; stop=[] for none"),
        (['stop=["a",""]'], "must be texts of at least one character"),
        (["stop=a,"], "must be texts of at least one character"),
        (["prompt=A", "prompt_file=p.txt"], "prompt and prompt_file=p.txt: give one of them"),
        (["prompt=\\n", "prompt_file=p.txt"], "give one of them"),
        (["each_line=true"], "this goes with prompt_file=FILE"),
    ],
)
def test_settings_that_make_no_sense(words, message, capsys):
    assert main.main(["generate", *words]) == 2
    assert message in one_line(capsys)


def test_a_line_end_stops_and_begins_a_text(trained, capsys):
    words = ["generate", r"prompt=fox\nLine", r"stop=\n", "max_new_tokens=200", "json=true"]
    assert main.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt"] == "fox\nLine"
    assert "\n" not in found["text"]
    assert main.main(["generate", "max_new_tokens=3", "seed=1"]) == 0
    usual = capsys.readouterr().out
    assert usual[0] == "\n"
    assert main.main(["generate", r"prompt=\n", "max_new_tokens=3", "seed=1"]) == 0
    assert capsys.readouterr().out == usual


def test_what_was_read_and_written_is_counted(trained, capsys):
    for number, speed in ((20, True), (1, False)):
        assert main.main(["generate", "prompt=the", f"max_new_tokens={number}"]) == 0
        err = capsys.readouterr().err
        assert "read 3 tokens in " in err
        assert f"wrote {number}" in err
        assert ("a second after the first" in err) == speed


def test_a_full_window_is_announced_once(trained, capsys):
    words = ["generate", "prompt=the", "num_samples=2", "batch=1"]
    for number, said in ((30, 0), (31, 1 if "transformer" in str(trained) else 0)):
        assert main.main([*words, f"max_new_tokens={number}"]) == 0
        err = capsys.readouterr().err
        assert err.count("trained on 32 tokens at a time (task.seq_len)") == said


def test_a_file_of_prompts_is_read_as_texts_are(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffone\r\ntwo\u2028still two\x85\f\r\n\r\nthree".encode())

    whole = SimpleNamespace(prompt_file=str(path), each_line=False)
    assert generate.given_prompts(whole) == ["one\ntwo\u2028still two\x85\f\n\nthree"]
    every = SimpleNamespace(prompt_file=str(path), each_line=True)
    assert generate.given_prompts(every) == ["one", "two\u2028still two\x85\f", "three"]
