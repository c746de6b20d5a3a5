import os
import shutil
import subprocess
import sys

import pytest

from mambalab.cli.completion import SCRIPTS, candidates, main, split
from mambalab.cli.verbs import SHELLS, VERBS

pytestmark = pytest.mark.usefixtures("workdir")


def test_verbs():
    assert candidates([], "") == list(VERBS)
    assert candidates([], "tr") == ["train"]
    assert candidates([], "-") == ["--help", "--version"]
    assert candidates(["nonsense"], "") == []
    assert candidates(["help"], "do") == ["doctor"]


def test_groups_and_keys():
    words = candidates(["train"], "")
    assert {"task=", "model=", "experiment=", "seed=", "optim.", "trainer."} <= set(words)
    assert "optim.lr=" not in words  # one step at a time
    assert candidates(["train", "task=text"], "optim.l") == ["optim.lr="]
    assert candidates(["train"], "task.seq") == ["task.seq_len="]
    assert candidates(["train"], "task.par") == ["task.params."]
    assert candidates(["generate"], "temp") == ["temperature="]


def test_options_of_groups(write):
    write("conf/task/own.yaml", "defaults: [text]\n")
    assert {"task=own", "task=shakespeare", "task=text"} <= set(candidates(["train"], "task="))
    assert candidates(["train"], "task=o") == ["task=own"]
    assert candidates(["train"], "experiment=q") == ["experiment=quickstart"]


def test_words_a_key_can_be():
    assert candidates(["train"], "optim.schedule=c") == [
        "optim.schedule=cosine",
        "optim.schedule=constant",
    ]
    assert candidates(["train"], "trainer.compile=t") == ["trainer.compile=true"]
    assert candidates(["train"], "trainer.patience=") == ["trainer.patience=null"]
    assert candidates(["train"], "device=c") == ["device=cpu", "device=cuda"]
    assert candidates(["train"], "nonsense=") == []


def test_paths(write):
    write("my run/config.yaml", "")
    write("book.txt", "")
    assert candidates(["eval"], "run=") == ["run=latest", "run=my run/"]
    assert candidates(["train"], "task.path=b") == ["task.path=book.txt"]
    assert candidates(["train"], "data_dir=") == ["data_dir=my run/"]
    assert candidates(["sync"], "my") == ["my run/"]
    assert candidates(["generate"], "my") == ["my run/"]
    assert candidates(["generate", "my run/"], "my") == []
    assert candidates(["compare"], "my") == ["my run/"]
    assert candidates(["compare"], "out=") == ["out=null", "out=my run/"]


def test_plain_words_and_flags():
    assert candidates(["data"], "f") == ["fetch"]
    names = [word for word in candidates(["data", "fetch"], "") if "=" not in word]
    texts = ["enwik8", "text8", "wikitext2", "wikitext103"]
    assert names == ["shakespeare", *texts, "mnist", "cifar10", "retrieval", "lra_image"]
    assert candidates(["data", "verify"], "s") == ["shakespeare"]
    assert {"scan", "train", "data"} <= set(candidates(["bench"], ""))
    assert "scan" not in candidates(["bench", "train"], "s")
    assert candidates(["completion"], "") == list(SHELLS)
    assert candidates(["train"], "--m") == ["--multirun"]
    assert candidates(["eval"], "--m") == []
    assert candidates(["train", "--cfg"], "") == ["job"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mambalab ", (["mambalab"], "")),
        ("mambalab tr", (["mambalab"], "tr")),
        ("mambalab train  'task=a b' x", (["mambalab", "train", "task=a b"], "x")),
        (r"mambalab train task.path=a\ b", (["mambalab", "train"], "task.path=a b")),
        ("mambalab generate prompt='a b", (["mambalab", "generate", "prompt='a"], "b")),
    ],
)
def test_lines_are_split_as_the_shell_does(line, words):
    assert split(line) == words


def test_bash_gets_what_follows_the_last_word_break(capsys):
    main(["bash", "mambalab train task=sh", " \t\n\"'><=;|&(:"])
    assert capsys.readouterr().out == "shakespeare\n"
    main(["bash", "mambalab train task=sh", " "])
    assert capsys.readouterr().out == "task=shakespeare\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_no_candidates_are_no_line(shell, write, capsys):
    write("conf/task/squares.yaml", "defaults: [text]\n")  # the user's own is no data set
    words = ["data", "fetch", "sq"]
    main(["bash", "mambalab data fetch sq", " "] if shell == "bash" else [shell, *words])
    assert capsys.readouterr().out == ""


def test_data_sets_are_completed_without_torch():
    code = (
        "import sys; from mambalab.cli.completion import main\n"
        "main(['fish', 'data', 'fetch', 's']); assert 'torch' not in sys.modules"
    )
    assert ask([sys.executable, "-c", code], {**os.environ}) == ["shakespeare"]


@pytest.fixture
def program(workdir):
    """Environment in which `mambalab` is a command of this interpreter."""
    script = workdir / "bin" / "mambalab"
    script.parent.mkdir()
    code = "import sys; from mambalab.cli.main import main; sys.exit(main())"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    script.chmod(0o755)
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": root, "HOME": str(workdir)}


def ask(command, env):
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mambalab tra", ["train"]),
        ("mambalab train task=sh", ["shakespeare"]),
        ("mambalab train experim", ["[nospace]", "experiment="]),
        ("mambalab train nonsense=", []),
    ],
)
@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash(program, line, words):
    script = f"""
        compopt() {{ echo "[nospace]"; }}
        eval "$(mambalab completion bash)"
        COMP_WORDS=(mambalab); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
        _mambalab_complete
        for word in "${{COMPREPLY[@]}}"; do echo "${{word:-EMPTY}}"; done
    """
    assert ask(["bash", "-c", script], program) == words


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish(program):
    script = "mambalab completion fish | source; complete -C 'mambalab train task=sh'"
    assert ask(["fish", "--no-config", "-c", script], program) == ["task=shakespeare"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_accepts_the_script(program):
    assert ask(["zsh", "-n", "-c", SCRIPTS["zsh"]], program) == []
