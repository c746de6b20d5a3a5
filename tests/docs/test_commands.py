"""Every command that the pages show is one that mambalab, make or pip understands.

A `mambalab` command is composed in process (`--cfg job`), so that a verb, group, option or key
that does not exist fails; those that take no time are run, on the small run of `workplace`.
"""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from mambalab.cli import main
from mambalab.config import paths
from tests.docs import pages

# Words that may come with a command for it to be run as printed, by verb.
RUN = {
    "runs": set(),
    "data": {"list"},
    "eval": {"run", "split=val", "stateful"},
    "generate": {"run", "prompt", "max_new_tokens", "temperature", "top_k", "top_p", "seed"},
    "export": {"run", "to", "out"},
    "completion": {"bash", "zsh", "fish"},
}
# Programs that the pages may show and that nobody has to check.
OTHER = {
    "wandb",
    "tensorboard",
    "cat",
    "cd",
    "curl",
    "export",
    "git",
    "head",
    "less",
    "ls",
    "mkdir",
    "source",
    "tail",
}
CUT = {"|", "&&", ";", "||", "&"}


def commands(block: pages.Block) -> list[list[str]]:
    """The commands of a shell block, each as its words; what follows a pipe is one of its own.

    Assignments before a command are left out, and `python -m mambalab` is `mambalab`, as is
    `torchrun ... -m mambalab`, with or without `srun`.
    """
    found: list[list[str]] = [[]]
    waiting = ""
    for line in block.text.splitlines():
        waiting += line
        if waiting.endswith("\\"):
            waiting = waiting[:-1]
            continue
        try:
            words = list(_words(waiting))
        except ValueError:  # a quotation that goes on in the next line
            waiting += "\n"
            continue
        waiting = ""
        for word in words:
            if word in CUT:
                found.append([])
            else:
                found[-1].append(word)
        found.append([])
    assert not waiting, f"{block}: a quotation without its end"
    plain = [words for words in map(_plain, found) if words]
    is_script = block.text.startswith("#!")  # of which a shell understands the rest
    return [words for words in plain if words[0] == "mambalab" or not is_script]


def _words(line: str) -> Iterator[str]:
    """Words of a line without its comment and without files that output goes to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    lexer.commenters = ""  # a '#' inside a word is no comment
    for word in lexer:
        if word.startswith("#"):
            return
        if word.endswith(">"):
            next(lexer)
        else:
            yield word


def _plain(words: list[str]) -> list[str]:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["srun"]:
        words = words[1:]
    if words[:1] == ["torchrun"] and "mambalab" in words:
        return words[words.index("mambalab") :]
    is_module = words[1:3] == ["-m", "mambalab"] and words[0].startswith("python")
    return ["mambalab", *words[3:]] if is_module else words


def shown() -> list:
    """Every command of every page's `sh` blocks, once a page."""
    found = {}
    for page in pages.PAGES:
        for block in page.of("sh"):
            for words in commands(block):
                found.setdefault((page.name, *words), (block, words))
    return [
        pytest.param(block, words, id=f"{block}: {shlex.join(words)}")
        for block, words in found.values()
    ]


def inline() -> list:
    """Commands within sentences, `mambalab VERB KEY=VALUE`, that leave nothing to the reader."""
    found = {}
    for page in pages.PAGES:
        for span in re.findall(r"`(mambalab [^`]+)`", page.prose):
            if not re.search(r"\.\.\.|[|\[\]<>…\n]|\b[A-Z]{2,}\b", span):
                found.setdefault((page.name, span), (page, shlex.split(span)))
    return [
        pytest.param(page, words, id=f"{page.name}: {shlex.join(words)}")
        for page, words in found.values()
    ]


def compose(words: list[str], capsys) -> None:
    """Fail if mambalab does not understand a command."""
    verb, *rest = words[1:] or ["--help"]
    flags = () if verb.startswith("-") or verb == "completion" else ("--cfg", "job")
    if "--help" in rest or "--cfg" in rest:
        flags = ()
    status = main.main([verb, *rest, *flags])
    assert status == 0, capsys.readouterr().err


def check_other(words: list[str]) -> None:
    """Fail if a command that is none of mambalab's names something that does not exist."""
    program, *rest = words
    if program == "make":
        makefile = (pages.ROOT / "Makefile").read_text()
        targets = [word for word in rest if "=" not in word]
        assert all(re.search(rf"^{t}:", makefile, re.MULTILINE) for t in targets), words
    elif program.startswith("python") and rest[:1] == ["-m"]:
        assert find_spec(rest[1]) is not None, f"no module {rest[1]}"
    elif program in ("pip", "ruff", "pyright", "pytest", "mkdocs", "wsl"):
        pass
    else:
        assert program in OTHER, f"{program}: no command that the pages may show"


@pytest.fixture
def place(workplace, request):
    """The working directory, with the files of the command's page in it."""
    found = request.node.callspec.params.get("block")
    page = found.page if found else request.node.callspec.params["page"]
    pages.write_files(page.blocks, workplace)
    return workplace


@pytest.mark.parametrize(("block", "words"), shown())
def test_a_command_is_understood(block, words, place, capsys):
    if words[0] != "mambalab":
        check_other(words)
        return
    compose(words, capsys)
    verb, *rest = words[1:] or ["--help"]
    allowed = RUN.get(verb)
    if allowed is not None and all(w in allowed or w.split("=")[0] in allowed for w in rest):
        more = ["max_new_tokens=8"] if verb == "generate" else []
        assert main.main([verb, *rest, *more]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("page", "words"), inline())
def test_a_command_within_a_sentence_is_understood(page, words, place, capsys):
    compose(words, capsys)


def test_settings_named_on_the_pages_exist(capsys):
    """Every `GROUP.KEY` in code face is a setting of mambalab train, with some task or other."""
    for task in paths.options("task"):
        assert main.main(["train", f"task={task}", "--help"]) == 0
    help_text = capsys.readouterr().out
    groups = "task|model|dropout|optim|trainer|tracking|sweep"
    pattern = rf"(?:{groups})(?:\.[a-z_A]+)+"
    file_names = (".py", ".yaml", ".json", ".jsonl", ".safetensors", ".png", ".md", ".log")
    named = {}
    for page in pages.PAGES:
        for span in re.findall(r"`([^`\n]+)`", page.prose):
            for word in span.split():
                found = re.fullmatch(rf"({pattern})(=.*)?", word)
                if found and not found[1].endswith(file_names):
                    named.setdefault(found[1], page.name)
    assert len(named) > 15
    unknown = [
        f"{where}: {key}"
        for key, where in named.items()
        if not re.search(rf"^\s*{re.escape(key)}[ .]", help_text, re.MULTILINE)
    ]
    assert unknown == []
