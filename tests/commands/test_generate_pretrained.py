"""`generate` from checkpoints: what stands between prompt and text, and what ends a text."""

import json

import pytest
from safetensors.torch import load_file, save_file

from mambalab import load
from mambalab.cli import main
from tests.lab import one_line
from tests.pretrained import counting
from tests.tokenization.kinds import KINDS


@pytest.fixture
def generate(workdir, capsys):
    """A function that generates from a checkpoint without chance; returns what is printed."""

    def run(folder, *words):
        line = ["generate", f"pretrained={folder}", "temperature=0", "device=cpu", *words]
        assert main.main(line) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"llama", "word-ends"}))
def test_the_blank_between_prompt_and_text(generate, workdir, kind):
    folder = counting.write(workdir / "model", kind)
    given = ["prompt=the", "max_new_tokens=2"]
    assert generate(folder, *given) == "the king is\n"
    found = json.loads(generate(folder, *given, "json=true", "stop=is"))
    assert (found["text"], found["stopped_by"]) == (" king ", "stop")
    found = json.loads(generate(folder, *given, "json=true", 'stop=" king"'))
    assert (found["text"], found["stopped_by"]) == ("", "stop")
    (workdir / "p.txt").write_text("the\nthe king\n")
    several = generate(folder, "prompt_file=p.txt", "each_line=true", "max_new_tokens=1")
    assert several == "--- 1 ---\nthe king\n--- 2 ---\nthe king is\n"
    assert generate(folder, "max_new_tokens=2").strip()  # without a prompt


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["generate", "prompt=the", "max_new_tokens=2"], "pretrained"),
        (["generate", "prompt=the", "temperature=0"], "pretrained"),
        (["inspect", "text=the king"], "pretrained"),
        (
            ["train", "task=text", "task.path=t.txt", "model=pretrained", "task.seq_len=8"],
            "model.pretrained",
        ),
    ],
)
def test_weights_that_are_no_numbers_are_named(workdir, capsys, words, where):
    folder = counting.write(workdir / "model")
    weights = load_file(folder / "model.safetensors")
    weights["backbone.layers.0.mixer.D"][3] = float("nan")
    save_file(weights, folder / "model.safetensors")
    (workdir / "t.txt").write_text("the king is the king " * 500)
    assert main.main([*words, f"{where}={folder}", "device=cpu"]) == 1
    line = one_line(capsys)
    assert f"{folder}: backbone.layers.0.mixer.D has NaN in 1 of 10 values" in line
    assert not (workdir / "outputs").exists()


def test_weights_that_overflow_are_seen_when_they_do(workdir, capsys):
    folder = counting.write(workdir / "model")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] *= 3e38
    save_file(weights, folder / "model.safetensors")
    (workdir / "t.txt").write_text("the king is the king " * 500)
    for temperature in (0, 1):
        words = ["generate", f"pretrained={folder}", f"temperature={temperature}", "prompt=the"]
        assert main.main([*words, "max_new_tokens=2"]) == 1
        assert "the model's output is not finite (Inf)" in one_line(capsys)
    assert main.main(["inspect", f"pretrained={folder}", "text=the king"]) == 1
    assert "the model's output: NaN or Inf on this sequence" in one_line(capsys)


MORE = {"temperature": 0, "max_new_tokens": 6, "json": "true", "prompt": "the"}


@pytest.mark.parametrize(
    ("config", "beside", "text"),
    [
        ({"eos_token_id": [0, 3]}, {}, " king"),
        (
            {"eos_token_id": [0, 3]},
            {"generation_config.json": {"eos_token_id": [0, 4]}},
            " king is",
        ),
        ({"eos_token_id": None}, {"generation_config.json": {"eos_token_id": 3}}, " king"),
        ({"eos_token_id": None}, {"special_tokens_map.json": {"eos_token": "?"}}, " king is"),
        (
            {"eos_token_id": None},
            {
                "special_tokens_map.json": {"eos_token": "?"},
                "tokenizer_config.json": {"eos_token": {"content": "▁is"}},
            },
            " king",
        ),
        ({"eos_token_id": 0}, {"tokenizer_config.json": {"eos_token": "▁is"}}, " king"),
        ({"eos_token_id": 3}, {"tokenizer_config.json": {"eos_token": "</s>"}}, " king"),
        ({"eos_token_id": 99}, {"special_tokens_map.json": {"eos_token": "?"}}, " king is"),
    ],
)
def test_which_tokens_end_a_text(generate, workdir, config, beside, text):
    folder = counting.write(workdir / "model", beside=beside, **config)
    words = [f"{key}={value}" for key, value in MORE.items()]
    found = json.loads(generate(folder, *words))
    assert (found["text"], found["stopped_by"]) == (text, "eos")


def test_end_tokens_go_with_a_run_and_its_exports(workdir):
    counting.write(workdir / "model", eos_token_id=[3, 0])
    (workdir / "t.txt").write_text("the king is the king " * 500)
    words = ["task=text", "task.path=t.txt", "model=pretrained", "model.pretrained=model"]
    words += ["task.seq_len=8", "trainer=smoke", "trainer.max_steps=1", "run_dir=run"]
    assert main.main(["train", *words, "device=cpu", "tracking=none"]) == 0
    assert load("run").tokenizer.eos_ids == (3, 0)
    for to in ("hf", "original"):
        assert main.main(["export", "run=run", f"to={to}", f"out={to}"]) == 0
        assert load(to).tokenizer.eos_ids == (3, 0)
