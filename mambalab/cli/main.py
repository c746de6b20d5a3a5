"""The command line: `mambalab VERB [KEY=VALUE ...]`.

Only sorts the words and hands them on; whatever takes time is imported when a verb needs it.
Exit status: 0 done, 1 failed while running, 2 misused, 130 interrupted.
"""

import errno
import os
import sys
from dataclasses import dataclass, field
from importlib import import_module

from mambalab import __version__
from mambalab.cli.verbs import OTHER_WORDS, SHELLS, VERBS, Verb
from mambalab.errors import UserError
from mambalab.utils import allocator, command, cores, openmp, streams, torchrun
from mambalab.utils.secrets import hide_password
from mambalab.utils.text import printable

OVERVIEW = """\
mambalab {version}: train and compare Mamba and Transformer models

usage: mambalab VERB [KEY=VALUE ...]

verbs:
{verbs}

  mambalab VERB --help                    every option of a verb, with its value
  mambalab VERB KEY=VALUE ... --cfg job   the configuration as YAML, nothing is run
  mambalab --version

to begin: mambalab train experiment=quickstart"""


class UsageError(UserError):
    """A mistake in what was typed, found before anything ran."""


@dataclass
class Arguments:
    """What follows a verb, sorted."""

    words: list[str] = field(default_factory=list)  # without "=": data fetch NAME, sync RUN
    overrides: list[str] = field(default_factory=list)
    help: bool = False
    show: bool = False  # --cfg job
    multirun: bool = False


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns the exit status, prints one line for a mistake."""
    argv = sys.argv[1:] if argv is None else argv
    status = 0
    try:
        # The results of a sweep's job are in its folder; its terminal may go.
        with streams.lenient(results_matter=argv[:1] != ["__job"]):
            status = _status(argv)
    except streams.BrokenOutputError as error:
        if status:
            return status
        if error.errno == errno.EPIPE:  # `mambalab runs | head`: the reader has seen enough
            return 141
        why = f"standard output cannot be written: {error.strerror}"
        with streams.lenient():
            return fail(UserError(f"{why}; send it elsewhere"), 1)
    return status


def _status(argv: list[str]) -> int:
    """Do what the words say; returns the exit status, whatever was wrong is one line."""
    try:
        return dispatch(argv)
    except UsageError as error:
        return fail(error, 2)
    except UserError as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        print("mambalab: interrupted", file=sys.stderr)
        return 130
    except ImportError as error:
        from mambalab.utils import packages

        if (line := packages.told(error)) is None:
            raise
        return fail(UserError(line), 1)


def fail(error: UserError, status: int) -> int:
    """Print an error as one line; returns `status`."""
    line = hide_password(" ".join(str(error).splitlines()))
    who = f"process {place.rank}: " if (place := torchrun.place()) and place.rank else ""
    print(f"mambalab: error: {who}{printable(line)}", file=sys.stderr)
    return status


def dispatch(argv: list[str]) -> int:
    """Do what the words say; returns the exit status.

    Raises:
        UsageError: a mistake in the words themselves.
        UserError: the verb failed for a reason that the user can mend.
    """
    verb, *rest = argv or ["--help"]
    if verb == "help" and rest:
        verb, rest = rest[0], ["--help"]
    if verb in ("-h", "--help", "help"):
        print(overview())
        return 0
    if verb in ("-V", "--version"):
        print(f"mambalab {__version__}")
        return 0
    if verb == "__complete":
        return import_module("mambalab.cli.completion").main(rest)
    if verb == "__job":  # one job of a sweep
        _suit_training()
        return import_module("mambalab.sweep.worker").main(rest)
    if verb == "__rank":  # one of the processes of trainer.devices=K
        _suit_training()
        return import_module("mambalab.runs.rank").main(rest)
    if verb not in VERBS:
        raise unknown_verb(verb)
    arguments = sort(VERBS[verb], rest)
    if verb == "completion":
        return completion(arguments)
    return run(VERBS[verb], arguments)


def _suit_training() -> None:
    """Set up threads and memory of this process for long computations; before torch is imported."""
    cores.limit_threads()
    openmp.limit_openmp_spin()
    allocator.keep_freed_memory()


def overview() -> str:
    """The text of `mambalab --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items())
    return OVERVIEW.format(version=__version__, verbs=verbs)


def unknown_verb(word: str) -> UsageError:
    """The error for a first word that is no verb."""
    from difflib import get_close_matches

    verbs = ", ".join(VERBS)
    if "=" in word:
        return UsageError(f"{word}: a verb comes first, as in mambalab train {word} ({verbs})")
    near = get_close_matches(word, VERBS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if other := OTHER_WORDS.get(word.lower().removeprefix("--")):
        hint = f"; did you mean mambalab {other}?"
    return UsageError(f"{word}: no such verb{hint} (verbs: {verbs})")


def sort(verb: Verb, rest: list[str]) -> Arguments:
    """Tell flags, settings and plain words apart."""
    found = Arguments()
    queue = list(rest)
    while queue:
        word = queue.pop(0)
        if word in ("-h", "--help"):
            found.help = True
        elif word in ("-m", "--multirun"):
            if not verb.multirun:
                able = " and ".join(f"mambalab {v.name}" for v in VERBS.values() if v.multirun)
                raise UsageError(f"{word}: only {able} can run several jobs")
            found.multirun = True
        elif word in ("-c", "--cfg") or word.startswith("--cfg="):
            kind = word[6:] if "=" in word else queue.pop(0) if queue else ""
            if kind != "job":
                raise UsageError(f"{word}: write --cfg job")
            found.show = True
        elif word.startswith("--") and word[2:] in verb.switches:
            found.overrides.append(f"{word[2:]}=true")
        elif word.startswith("-") and "=" not in word:
            from difflib import get_close_matches

            near = get_close_matches(word, verb.flags(), n=1)
            hint = f"did you mean {near[0]}?" if near else f"mambalab {verb.name} --help lists all"
            hint = _without_dashes(verb, word, queue) or hint
            raise UsageError(f"{word}: no such flag; {hint}")
        elif verb.takes_paths and (os.path.exists(word) or "/" in word.partition("=")[0]):
            found.words.append(word)  # a sweep's runs have "=" in their names
        elif "=" in word or word.startswith("~"):
            found.overrides.append(word)
        else:
            found.words.append(word)
    return found


def _without_dashes(verb: Verb, word: str, rest: list[str]) -> str | None:
    """What to write instead of `--lr 0.1` or `--config my.yaml`; None if no setting is meant."""
    if verb.settings is None or not word.startswith("--"):
        return None
    from mambalab.config.overrides import known, setting_of
    from mambalab.config.synonyms import is_file_of_settings, own_file

    names = known(verb.name, verb.settings_class())
    value = rest[0] if rest and not rest[0].startswith("-") and "=" not in rest[0] else ""
    if names.groups and is_file_of_settings(word[2:]):
        return own_file(value)
    key = setting_of(word[2:], names)
    if key in names.options and names.options[key].type is bool:
        value = value or "true"
    return key and f"settings are written without dashes: {key}={value or 'VALUE'}"


def completion(arguments: Arguments) -> int:
    """`mambalab completion SHELL`."""
    from mambalab.cli import completion as shells

    if arguments.help:
        print(shells.HELP)
        return 0
    if len(arguments.words) != 1 or arguments.overrides or arguments.words[0] not in SHELLS:
        given = " ".join(arguments.words + arguments.overrides)
        raise UsageError(f"completion {given}: write mambalab completion {'|'.join(SHELLS)}")
    print(shells.SCRIPTS[arguments.words[0]])
    return 0


def run(verb: Verb, arguments: Arguments) -> int:
    """Compose the settings of a verb, then show, explain or use them.

    Raises:
        UsageError: a mistake in the settings.
        UserError: the verb failed.
    """
    plan = settings = None
    try:
        from mambalab import config
        from mambalab.config.overrides import known, positional
        from mambalab.utils import console

        if arguments.help:
            from mambalab.cli.help import verb_help

            print(verb_help(verb, arguments.overrides, arguments.multirun))
            return 0
        cls = verb.settings_class()
        words = arguments.words
        overrides = positional(verb.positional, words, known(verb.name, cls)) if words else []
        overrides += arguments.overrides
        if arguments.multirun:
            from mambalab.sweep import plan as multirun

            with console.show_log():
                plan = multirun.plan(overrides)
            if arguments.show:
                shown = [job.config for job in plan.jobs] or [plan.first]
                print("---\n".join(map(config.to_yaml, shown)), end="")
                return 0
        else:
            with console.show_log():
                settings = config.compose(verb.name, overrides, cls)
            if arguments.show:
                print(config.to_yaml(settings), end="")
                return 0
            if callable(check_ready := getattr(settings, "check_ready", None)):
                check_ready()
    except UserError as error:
        raise UsageError(str(error)) from error
    from mambalab.utils import console, memory, packages

    packages.require(*verb.needs)
    _suit_training()
    with console.show_log(), memory.told_in_one_line():
        config.tell_replaced(verb.name)
        if plan is not None:
            plan.command = arguments.overrides
            return import_module("mambalab.sweep.run").run(plan)
        typed = command.as_line([verb.name, *arguments.words, *arguments.overrides])
        with command.carried_out(typed):
            return import_module(verb.module).run(settings)
