"""`generate` from checkpoints: what stands between prompt and text, and what ends a text."""

import json

import pytest

from mambalab.cli import main
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
