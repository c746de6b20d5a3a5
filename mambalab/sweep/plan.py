"""What `mambalab train -m` means: its jobs, each checked before any of them starts.

What varies comes from the command line (`seed=1,2,3`) and from `sweep.params`; the command line has
the last word on a key. The folder of a sweep is named after what varies and a hash of what does
not, that of a job after its own values, so the same words mean the same folders: `seed` always
counts as varying, and one more seed only adds a job.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from mambalab.config import grammar, origins, paths
from mambalab.config.axes import LAUNCHER, SWEEP, axes, check_count
from mambalab.config.compose import Composed, compose_parts, merge_onto, typed
from mambalab.config.identity import may_change
from mambalab.config.overrides import assignment, prepare
from mambalab.config.raw import Reader
from mambalab.config.schema import TrainConfig
from mambalab.errors import NotApplicableError, UserError
from mambalab.settings.sweep import LAUNCHERS, LauncherSettings, Search, SweepSettings
from mambalab.utils import packages
from mambalab.utils.console import LOG

MAX_NAME_CHARS = 150  # of a job's folder; file systems take 255 bytes
MANY_JOBS = 200  # to check them takes so long that a word is due
_OF_A_SEARCH = {"sweep.trials", "sweep.prune"}


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: of its folder: the values that it alone has.
        config: its settings, checked; `run_dir` is in the folder of the sweep.
    """

    name: str
    config: DictConfig

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.config.run_dir)


@dataclass
class Plan:
    """A sweep that was checked, nothing of it started.

    Attributes:
        folder: of the sweep.
        settings, launcher, launcher_name: how to run it.
        jobs: of a grid, in order; of a search, none yet.
        not_applicable: name of a combination that makes no sense, and why.
        fixed: overrides that all jobs share, as given.
        varying: the keys that tell the jobs apart, sorted, `seed` last.
        ranges: what a search chooses from, by key.
        command: the words of the command line, for people.
        first: the configuration of the first job; of a search, one within its ranges.
    """

    folder: Path
    settings: SweepSettings
    launcher: LauncherSettings
    launcher_name: str
    jobs: list[Job]
    not_applicable: dict[str, str]
    fixed: list[str]
    varying: list[str]
    first: TrainConfig
    ranges: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)

    def job(self, values: dict[str, Any], reader: Reader | None = None) -> Job:
        """Make the job of a search that has these values.

        Args:
            values: by key.
            reader: of several jobs; None reads all files.

        Raises:
            UserError: they are not valid; NotApplicableError: they do not go together.
        """
        groups = paths.groups()
        words = [assignment(key, value, groups) for key, value in values.items()]
        prepared = [*prepare("train", words, multirun=True), *self.fixed]
        composed = compose_parts("train", prepared, reader=reader)
        return _job(self.folder, self.name_of(values), composed.config)

    def name_of(self, values: dict[str, Any]) -> str:
        """Name the job of a search that has these values."""
        return _fit(_name({k: _short(values[k]) for k in self.varying if k in values}))


def plan(overrides: list[str]) -> Plan:
    """Expand the sweep and check every job of it; nothing is created.

    Raises:
        UserError: the first mistake in any job, named with the job.
    """
    choices = axes(prepare("train", overrides, multirun=True))
    if "run_dir" in choices:
        raise UserError("run_dir: a sweep names the folders of its jobs; give sweep.dir=FOLDER")
    first = compose_parts("train", [words[0] for words in choices.values()], checked=False)
    _check_experiments(choices, first)
    plain = _with_flat_params(first.sweep)
    given = set(plain["params"]) if isinstance(plain.get("params"), dict) else set()
    settings = merge_onto(SweepSettings, _without_fixed(plain, choices), prefix=SWEEP)
    launcher_name = first.choices.get(paths.LAUNCHER_GROUP, "basic")
    launcher = _launcher(launcher_name, first.launcher)
    declared = settings.params
    if "trust" in declared:
        raise UserError("sweep.params.trust: whom to trust is not tried out; type trust=MODULE")
    searching = settings.search is not Search.grid
    varying = {k for k, words in choices.items() if len(words) > 1}
    varying |= set(declared) if searching else given
    if "tracking.uri" in varying:  # its values would name folders, passwords and all
        raise UserError("tracking.uri: one sweep is recorded in one store; give one value for it")
    for key in () if searching else sorted(_OF_A_SEARCH & choices.keys()):
        LOG.warning("%s changes nothing without a search: add sweep.search=tpe", choices[key][0])
    order = [*sorted(varying - {"seed"}), "seed"]
    fixed = {k: words[0] for k, words in choices.items() if len(words) == 1}
    folder = _folder(settings, first, fixed, order)
    if searching:
        found = Plan(folder, settings, launcher, launcher_name, [], {}, list(fixed.values()),
                     order, typed(first.config), declared)  # fmt: skip
        return _checked_search(found)
    groups = paths.groups()
    for key, values in declared.items():
        words = [assignment(key, value, groups) for value in values]
        choices[key] = prepare("train", words, multirun=True)
    choices.setdefault("seed", [f"seed={first.config.seed}"])
    check_count(map(len, choices.values()), "")
    jobs, skipped = _grid(choices, order, folder, declared)
    if len(jobs) == 1 and not skipped:
        LOG.info("nothing varies, so there is one job; list values, as in seed=1,2,3")
    config = typed(jobs[0].config)
    return Plan(folder, settings, launcher, launcher_name, jobs, skipped, list(fixed.values()),
                order, config)  # fmt: skip


def _check_experiments(choices: dict[str, list[str]], first: Composed) -> None:
    """Raise UserError if several experiments are listed that declare different sweeps."""
    words = choices.get("experiment", [])
    others = [word for key, (word, *_) in choices.items() if key != "experiment"]
    for word in words[1:]:
        found = compose_parts("train", [*others, word], checked=False)
        if (found.sweep, found.launcher) != (first.sweep, first.launcher):
            raise UserError(
                f"{words[0]} and {word} declare different sweeps (sweep.* or hydra/launcher): give "
                "each a command of its own"
            )


def _grid(
    choices: dict[str, list[str]], order: list[str], folder: Path, declared: Collection[str]
) -> tuple[list[Job], dict[str, str]]:
    jobs: dict[str, Job] = {}
    skipped: dict[str, str] = {}
    refusal: NotApplicableError | None = None
    reader, groups = Reader("train"), paths.groups()
    if (count := prod(map(len, choices.values()))) >= MANY_JOBS:
        LOG.info(f"checking {count:,} jobs before the first of them starts ...")
    for combination in product(*choices.values()):
        words = dict(zip(choices, combination, strict=True))
        typed_last = sorted(words, key=lambda key: key not in declared)
        given = {k: words[k].partition("=")[2].strip("'\"") for k in order if k in words}
        name = _name(given)
        try:
            prepared = [words[key] for key in typed_last]
            config = compose_parts("train", prepared, reader=reader).config
        except NotApplicableError as error:
            skipped[name] = str(error)
            refusal = error
            continue
        except UserError as error:
            where = f" (in job {name})" if len(given) > 1 else ""
            raise UserError(f"{error}{where}") from error
        name = _fit(_name({k: _value(config, k, given.get(k), groups) for k in order}))
        job = _job(folder, name, config)
        if name in jobs and jobs[name].config != job.config:
            name = _fit(name, tell_apart=json.dumps(given))
            job = _job(folder, name, config)
        jobs[name] = job
    if not jobs:
        assert refusal is not None, "every combination was tried"
        raise refusal
    return list(jobs.values()), skipped


def _checked_search(found: Plan) -> Plan:
    """Compose the ends of every range and every listed value, so that no trial meets a mistake."""
    packages.require("optuna")
    groups, reader = paths.groups(), Reader("train")
    base = {k: v["low"] if isinstance(v, dict) else v[0] for k, v in found.ranges.items()}
    for key, values in found.ranges.items():
        tried = [values["low"], values["high"]] if isinstance(values, dict) else values
        for value in tried:
            try:
                prepare("train", [assignment(key, value, groups)], multirun=True)
                found.job({**base, key: value}, reader)
            except NotApplicableError:
                continue  # with other values of the other keys it may be right
            except UserError as error:
                raise UserError(f"{error} (in sweep.params.{key})") from error
    return found


def _job(folder: Path, name: str, config: DictConfig) -> Job:
    with open_dict(config):
        config.run_dir = str(folder / name)
    return Job(name, config)


def _launcher(name: str, plain: dict[str, Any]) -> LauncherSettings:
    cls = LAUNCHERS.get(name)
    if cls is None:  # a file in the user's ./conf/hydra/launcher
        known = ", ".join(LAUNCHERS)
        raise UserError(f"hydra/launcher={name}: mambalab can start jobs by {known}")
    values = {} if name == "basic" else {k: v for k, v in plain.items() if k != "_target_"}
    try:
        return merge_onto(cls, values, prefix=LAUNCHER)
    except UserError as error:
        old = [option for option, new in paths.OLD_LAUNCHERS.items() if new == name]
        hints = {origins.hint("train", {paths.LAUNCHER_GROUP: option}) for option in [name, *old]}
        raise UserError(f"{error}{''.join(sorted(hints))}") from error


def _with_flat_params(sweep: dict[str, Any]) -> dict[str, Any]:
    """Return `sweep` with dotted keys in `params`, however deep they were written.

    A null takes back what another file, an experiment that this one builds on, has declared.
    """

    def flat(node: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.items():
            if isinstance(value, dict) and not {"low", "high"} & set(value):
                found.update(flat(value, f"{prefix}{key}."))
            else:
                found[f"{prefix}{key}"] = value
        return found

    if not isinstance(params := sweep.get("params"), dict):
        return sweep
    declared = {key: value for key, value in flat(params, "").items() if value is not None}
    return {**sweep, "params": declared}


def _without_fixed(sweep: dict[str, Any], choices: dict[str, list[str]]) -> dict[str, Any]:
    """Return `sweep` without the params that the command line fixes, or lists itself: it has the
    last word on what a file declares, which is said.

    Raises:
        UserError: of a search, the command line says both, or lists values.
    """
    params = sweep.get("params")
    if not isinstance(params, dict):
        return sweep
    searching = sweep.get("search") in ("random", "tpe")
    for key, words in choices.items():
        if searching and len(words) > 1:
            where = "it is there already" if key in params else f"put {key} there"
            values = ",".join(word.partition("=")[2] for word in words)
            raise UserError(
                f"{key}={grammar.cut(values)}: a search draws its values from sweep.params; "
                f"{where}, or use sweep.search=grid"
            )
    fixed = [key for key in params if key in choices]
    typed_too = _declared_on_line(choices)
    for key in fixed:
        if searching and key in typed_too:
            raise UserError(
                f"{key}: given twice, as {grammar.cut(choices[key][0])} and in sweep.params: "
                "leave one of them out"
            )
    if searching and fixed and len(fixed) == len(params):
        raise UserError(
            f"{', '.join(fixed)}: fixed on the command line, so that nothing is left to search; "
            "leave one out, or use sweep.search=grid"
        )
    if fixed:
        values = " ".join(f"{key}={','.join(_after(w) for w in choices[key])}" for key in fixed)
        LOG.info("%s: as on the command line, not as sweep.params has it", grammar.cut(values))
    return {**sweep, "params": {k: v for k, v in params.items() if k not in choices}}


def _after(word: str) -> str:
    return word.partition("=")[2]


def _declared_on_line(choices: dict[str, list[str]]) -> set[str]:
    """Return the keys that the command line itself declares in `sweep.params`."""
    found = {k.removeprefix(f"{SWEEP}params.") for k in choices if k.startswith(f"{SWEEP}params.")}
    for word in choices.get(f"{SWEEP}params", ()):
        value = grammar.parse(word).value()
        if isinstance(value, dict):
            found |= set(_with_flat_params({"params": value})["params"])
    return found


def _folder(
    settings: SweepSettings, first: Composed, fixed: dict[str, str], order: list[str]
) -> Path:
    if settings.dir is not None:
        return Path(os.path.expanduser(settings.dir))
    searching = settings.search is not Search.grid
    same = {
        v.partition("=")[0]: v.partition("=")[2]
        for k, v in fixed.items()
        if (k not in order or (searching and k == "seed"))
        and not may_change(k)
        and not k.startswith((SWEEP, "hydra"))
    }
    identity = [sorted(same.items()), order, settings.search.name]  # jobs of a search name no seed
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    title = first.choices.get("experiment", "None")
    if title == "None":
        title = str(first.config.task.name)
    if {"task", "experiment"} & set(order):
        title = "sweep"  # the first of several would make a name that the order decides
    leaves = [k.rpartition(".")[2] for k in order if k != "seed"]
    label = "-".join([title.replace("/", "-"), *leaves])
    return Path(first.config.output_dir, "sweeps", f"{_plain(label)[:MAX_NAME_CHARS]}-{digest}")


def _value(config: DictConfig, key: str, given: str | None, groups: Collection[str]) -> str:
    """Write a job's value of a key as its name shows it: `0.001` however it was given."""
    if key in groups:
        return str(given)
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return "absent"  # ~task.params.KEY takes it away
        node = node.get(part)
    return _short(node) if not isinstance(node, DictConfig) else str(given)


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return getattr(value, "name", None) or str(value)


def _name(values: dict[str, str]) -> str:
    return _plain(",".join(f"{k}={v}" for k, v in values.items()))


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=,+-]+", "-", text)


def _fit(name: str, tell_apart: str = "") -> str:
    """Shorten a name to fit a folder, so that no other job has the same."""
    if len(name) <= MAX_NAME_CHARS and not tell_apart:
        return name
    digest = hashlib.sha256((name + tell_apart).encode()).hexdigest()[:6]
    return f"{name[: MAX_NAME_CHARS - 7]}-{digest}"
