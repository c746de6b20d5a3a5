"""Shell completion: the shells ask `mambalab __complete`, which prints one candidate a line.

A candidate that ends in `=`, `.` or `/` is not finished: the shell adds no blank after it.
"""

import re
import shlex
from glob import escape, glob
from pathlib import Path
from typing import get_origin

from mambalab.cli.verbs import FLAGS, SHELLS, VERBS, Verb
from mambalab.config.messages import choices, strip_optional
from mambalab.config.overrides import Known, known

HELP = """\
mambalab completion: print the completion script of a shell

usage: mambalab completion bash | zsh | fish

  bash   eval "$(mambalab completion bash)"       a line for ~/.bashrc
  zsh    eval "$(mambalab completion zsh)"        a line for ~/.zshrc
  fish   mambalab completion fish | source        a line for ~/.config/fish/config.fish

Completes verbs, groups and their options, keys, words that a key can be, runs and paths."""

BASH = r"""_mambalab_complete() {
    local line candidate
    line="${COMP_LINE:0:COMP_POINT}"
    COMPREPLY=()
    while IFS= read -r candidate; do
        COMPREPLY+=("$(printf %q "$candidate")")
    done < <("${COMP_WORDS[0]}" __complete bash "$line" "$COMP_WORDBREAKS" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]]; then
        compopt -o nospace
    fi
}
complete -F _mambalab_complete mambalab"""

ZSH = r"""(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_mambalab_complete() {
    local -a found
    found=(${(f)"$("${words[1]}" __complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)"})
    compadd -S '' -- ${(M)found:#*[=./]}
    compadd -- ${found:#*[=./]}
}
compdef _mambalab_complete mambalab"""

FISH = r"""function _mambalab_complete
    set -l before (commandline -opc)
    $before[1] __complete fish $before[2..-1] (commandline -ct) 2>/dev/null
end
complete -c mambalab -f -a '(_mambalab_complete)'"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
_OF_PATHS = ("path", "val_path", "test_path", "prompt_file", "tokenizer")  # last words of keys
FOLDERS = {"output_dir", "data_dir", "run_dir", "out", "pretrained", "model.pretrained"}
DEVICES = ["auto", "cpu", "cuda", "mps"]


def main(arguments: list[str]) -> int:
    """`mambalab __complete SHELL ...`: print the candidates for the word at the cursor.

    bash hands over the line up to the cursor and the characters at which it breaks words (it
    replaces only what follows the last of them); the other shells the words after the program.
    """
    shell, *words = arguments
    if shell != "bash":
        _print(candidates(words[:-1], words[-1] if words else ""))
        return 0
    line, breaks = words
    before, current = split(line)
    cut = max((current.rfind(c) for c in breaks if c in "=:"), default=-1) + 1
    _print([c[cut:] for c in candidates(before[1:], current)])
    return 0


def _print(words: list[str]) -> None:
    """A line each; no candidates are no line: an empty one would be taken for an empty word."""
    for word in words:
        print(word)


def split(line: str) -> tuple[list[str], str]:
    """The finished words of a line and the one at its end, which may be empty or half quoted."""
    *rest, current = re.split(r"(?<!\\)\s+(?=(?:\\.|\S)*$)", line, maxsplit=1)
    current = re.sub(r"\\(.)", r"\1", current)
    try:
        return shlex.split(rest[0] if rest else ""), current
    except ValueError:  # the cursor is inside quotes
        return line.split()[:-1], current


def candidates(before: list[str], current: str) -> list[str]:
    """Complete words that begin with `current` and may follow the words `before` (verb first)."""
    return [word for word in _offers(before, current) if word.startswith(current)]


def _offers(before: list[str], current: str) -> list[str]:
    """Words of every kind that can come after `before`, whatever `current` begins with."""
    if not before:
        return [*FLAGS[:1], "--version"] if current.startswith("-") else list(VERBS)
    verb, *rest = before
    record = VERBS.get(verb)
    if verb == "help":
        return list(VERBS)
    if verb == "completion":
        return list(SHELLS) if not rest else []
    if record is None:
        return []
    if current.startswith("-"):
        return record.flags()
    if rest and rest[-1] in ("-c", "--cfg"):
        return ["job"]
    names = known(verb, record.settings_class())
    if "=" in current:
        return _values(names, current)
    return _keys(names, current) + _words(record, names, rest, current)


def _keys(names: Known, current: str) -> list[str]:
    """Groups and keys; the keys of a group only once its dot is there."""
    found = [f"{group}=" for group in names.groups]
    for key, option in names.options.items():
        if "." in key and not current.startswith(key.split(".")[0] + "."):
            found.append(key.split(".")[0] + ".")
        else:
            found.append(f"{key}." if get_origin(option.type) is dict else f"{key}=")
    return list(dict.fromkeys(found))


def _values(names: Known, current: str) -> list[str]:
    """Assignments `KEY=VALUE` that `current` may become."""
    key, _, value = current.partition("=")
    if key in names.groups:
        offers = names.groups[key]
    elif key not in names.options:
        offers = []
    else:
        kind, optional = strip_optional(names.options[key].type)
        offers = choices(kind) + (["null"] if optional else [])
        if key == "device":
            offers += DEVICES
        elif key == "run":
            offers += ["latest", *_paths(value, folders=True)]
        elif key in FOLDERS or key.rpartition(".")[2] in _OF_PATHS:
            offers += _paths(value, folders=key in FOLDERS)
    return [f"{key}={offer}" for offer in offers]


def _words(verb: Verb, names: Known, rest: list[str], current: str) -> list[str]:
    """Plain words that may come next, by the record of the verb."""
    plain = [word for word in rest if "=" not in word]
    if verb.takes_paths and (verb.positional != ("run",) or not plain):
        return ["latest", *_paths(current, folders=True)]
    if len(plain) >= len(verb.positional):
        return []
    if offered := verb.offered(plain):
        return offered
    return choices(names.options[verb.positional[len(plain)]].type)


def _paths(start: str, folders: bool) -> list[str]:
    """Paths that begin so; folders end in a slash."""
    found = [p for p in sorted(glob(f"{escape(start)}*")) if not folders or Path(p).is_dir()]
    return [f"{p}/" if Path(p).is_dir() else p for p in found]
