"""What `from mambalab import ...` offers to other programs.

Each function does what the verb of the command line does, in this process. A mistake is a
`UserError`; nothing ends the program.
"""

import os
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mambalab import config
from mambalab.compare import select
from mambalab.config.overrides import assignment, known, prepare
from mambalab.errors import UserError
from mambalab.records import reader
from mambalab.records.run_folder import RunFolder
from mambalab.records.summary import EndedBy
from mambalab.settings.model import ModelSettings
from mambalab.settings.rules import CHECKPOINT, Rule
from mambalab.settings.train import Precision
from mambalab.utils import command, console, cores, memory, openmp
from mambalab.utils.frames import frame
from mambalab.utils.mapping import flatten

if TYPE_CHECKING:
    from mambalab.compare.tables import ComparisonTables
    from mambalab.runs.handle import Run

_NAMED = {"task": "task.name", "model": "model.name", "dropout": "dropout.name", "seed": "seed"}
_COLUMNS = ("status", *_NAMED, "step", "metric", "best", "best_step", "test/accuracy", "minutes")
_SIGNALS = (EndedBy.SIGINT, EndedBy.SIGTERM, EndedBy.SIGHUP)


def train(settings: "str | Sequence[str] | Mapping[str, Any]" = ()) -> "Run":
    """Train a run, or find it if it is finished already, as `mambalab train` does.

    >>> from mambalab import train
    >>> run = train(["task=digits", "model=mamba"])  # doctest: +SKIP
    >>> run = train({"task": "digits", "optim.lr": 1e-3})  # doctest: +SKIP
    >>> run.best, run.metrics, run.model  # doctest: +SKIP

    The run goes on where it stopped, and each call with the same settings means the same run.
    Progress and messages appear on standard error. Ctrl-C and SIGTERM save the run, then act as
    they do without mambalab: KeyboardInterrupt, for Ctrl-C. In a thread other than the main one
    signals are left alone.

    Args:
        settings: the words after `mambalab train`, as a list or one text; or a mapping from dotted
            keys (or groups) to values.

    Returns:
        The run: its `folder`, `metrics`, `best`, `summary` and `model`.

    Raises:
        UserError: a mistake in the settings, absent data, a training that broke; one line says
            what to do.
        KeyboardInterrupt: Ctrl-C; the run is saved.
    """
    if "torch" not in sys.modules:
        cores.limit_threads()
        openmp.limit_openmp_spin()
    from mambalab.runs import training
    from mambalab.runs.build import is_ours
    from mambalab.runs.handle import Run

    words = _words(settings)
    with console.show_log():
        composed = config.compose("train", words)
        config.tell_replaced("train")
        with command.carried_out(command.as_line(["train", *words])):
            resolved, summary = training.train(composed)
    # The user named these classes: what may train may be read back.
    targets = (composed.task._target_, composed.model._target_)
    own = {target.rpartition(".")[0] for target in targets if not is_ours(target)}
    stopped = summary.unheard  # of a run that was found finished there is none
    if isinstance(resolved, training.ResolvedRun) and summary.ended_by in _SIGNALS:
        stopped = str(summary.ended_by)
    if stopped is not None:
        signal.raise_signal(signal.Signals[stopped])
    return Run(resolved.folder.path, sorted({*composed.trust, *own}))


def _words(settings: str | Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The words that settings mean on the command line.

    Raises:
        UserError: something that is no text among them.
    """
    if isinstance(settings, Mapping):
        groups = known("train").groups
        flat = {key: _plain(value) for key, value in flatten(settings).items()}
        return [assignment(key, value, groups) for key, value in flat.items()]
    words = shlex.split(settings) if isinstance(settings, str) else list(settings)
    if odd := [word for word in words if not isinstance(word, str)]:
        raise UserError(
            f"train: {odd[0]!r} is no text; write words as on the command line, such as "
            '"optim.lr=0.001", or a dict: {"optim.lr": 0.001}'
        )
    return words


def _plain(value: Any) -> Any:
    """A value as `assignment` takes it: numbers of NumPy, paths and tuples as plain ones."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value


def evaluate(
    run: "Run | str | os.PathLike[str]" = "latest",
    split: str = "val",
    *,
    checkpoint: str = "best",
    stateful: bool = False,
    device: str = "auto",
    output_dir: str | os.PathLike[str] = "outputs",
    data_dir: str | os.PathLike[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    trust: Sequence[str] = (),
) -> dict[str, float]:
    """Score weights of a run on a split of its data, as `mambalab eval` does.

    Args:
        run: what `train` returned, a run folder, or `latest`.
        split: train, val, test or train_sample, as far as the task has them.
        checkpoint: whose weights: best, last or step_N.
        stateful: also score one pass with the state carried across windows (Mamba on a text).
        device: auto, cpu, cuda, cuda:N or mps.
        output_dir: where `latest` looks.
        data_dir: folder of the data sets; None = as the run recorded.
        path: what `task.path` named and lies elsewhere now; None = as trained.
        trust: modules outside mambalab whose classes the run may use.

    Returns:
        Every metric by name, such as `val/loss`; losses in nats, accuracies from 0 to 1.

    Raises:
        UserError: no such run or split, data absent or changed since training.
    """
    from mambalab.runs import evaluation

    folder = reader.resolve_run(os.fspath(run), Path(output_dir).expanduser())
    with console.show_log(), memory.told_in_one_line():
        return evaluation.evaluate(
            folder,
            split,
            device=device,
            stateful=stateful,
            data_dir=None if data_dir is None else os.fspath(data_dir),
            path=None if path is None else os.fspath(path),
            trust=[*getattr(run, "trust", ()), *trust],
            which=_checkpoint(checkpoint),
        ).metrics


def _checkpoint(name: str) -> str:
    """The name of a checkpoint, as it is; raises UserError for what can be none."""
    if (problem := Rule(**CHECKPOINT).problem(name)) is not None:
        raise UserError(f"checkpoint={name}: {problem}")
    return name


def runs(
    where: Mapping[str, Any] | None = None, *, output_dir: str | os.PathLike[str] = "outputs"
) -> Any:
    """List the runs below a folder, the one trained last at the end.

    Args:
        where: keep runs with these settings: values by dotted key, such as
            `{"task.name": "digits", "seed": 1}`; a list of values means any of them.
        output_dir: the folder.

    Returns:
        A pandas DataFrame with a row for each run; without pandas a list of dicts. A run that
        cannot be read is left out and said.

    Raises:
        UserError: a key of `where` that no run has.
    """
    with console.show_log():
        records = []
        paths = reader.find_runs(Path(output_dir).expanduser())
        for path in sorted(paths, key=reader.last_activity):
            try:
                records.append(reader.read_run(path))
                records[-1].best  # noqa: B018 - reads the curves
            except (UserError, OSError) as error:
                console.LOG.warning("cannot read a run: %s", error)
                records = [record for record in records if record.path != path]
    wanted = {
        key: value if isinstance(value, list) else [value]
        for key, value in flatten(where or {}).items()
    }
    for key in wanted:
        if records and not any(key in flatten(record.config) for record in records):
            raise UserError(f"where: no run has a setting {key}; name it as config.yaml does")
    kept = [r for r in records if all(r.setting(key) in any_of for key, any_of in wanted.items())]
    more = [key for key in wanted if key not in _NAMED.values()]
    return frame([_row(record, more) for record in kept], columns=_COLUMNS)


def _row(record: reader.RunRecord, more: Sequence[str]) -> dict[str, Any]:
    """A run as a row of `runs`, with the settings `more`."""
    best, test = record.best, record.summary.test
    row = {
        "status": record.status,
        **{column: record.setting(key) for column, key in _NAMED.items()},
        "step": record.step,
        "metric": record.metric,
        "best": None if best is None else best.value,
        "best_step": None if best is None else best.step,
        "test/accuracy": None if test is None else test.metrics.get("test/accuracy"),
        "minutes": record.minutes,
        "folder": str(record.path),
    }
    return {**row, **{key: record.setting(key) for key in more}}


def compare(
    *which: "Run | str | os.PathLike[str] | Iterable[Run | str | os.PathLike[str]]",
    metric: str | None = None,
    goal: float | None = None,
    baseline: str | None = None,
    pairs: str | None = None,
    bootstrap: bool = False,
    output_dir: str | os.PathLike[str] = "outputs",
) -> "ComparisonTables":
    """Compare runs, in groups by what they differ in, as `mambalab compare` does.

    Args:
        *which: runs that `train` returned, run folders, folders of runs, or `latest` (the newest
            sweep); also lists of them.
        metric: to judge by; None = what the runs are judged by.
        goal: value to which time and tokens are measured; None = a common one.
        baseline: label of the group to compare with, or part of it; None = no dropout.
        pairs: also compare groups that differ in one setting only: auto, or the setting.
        bootstrap: resampled 95 % intervals of means instead of Student's t.
        output_dir: where `latest` looks.

    Returns:
        Tables `groups` and `runs`; as a text when printed. Writes nothing: its `write` does.

    Raises:
        UserError: nothing to compare, or runs that cannot be compared.
    """
    from mambalab.compare.tables import ComparisonTables

    names: list[str] = []
    for one in which:
        several = [one] if isinstance(one, str | os.PathLike) else one
        names += [os.fspath(name) for name in several]
    if not names:
        raise UserError("compare: which runs? give runs, folders of runs, or latest")
    folders = [select.locate(name, Path(output_dir).expanduser()) for name in names]
    with console.show_log():
        found = select.compare_records(
            *select.collect(folders),
            metric=metric,
            goal=goal,
            baseline=baseline,
            bootstrap=bootstrap,
            pairs=pairs,
            searched=select.searched_in(folders),
        )
    return ComparisonTables(found)


def load(
    name: "Run | str | os.PathLike[str]" = "latest",
    *,
    checkpoint: str = "best",
    tokenizer: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    output_dir: str | os.PathLike[str] = "outputs",
    data_dir: str | os.PathLike[str] | None = None,
    trust: Sequence[str] = (),
) -> Any:
    """Load a trained model: of a run of mambalab's, or a published Mamba-1.

    >>> from mambalab import load
    >>> source = load("state-spaces/mamba-130m-hf")  # doctest: +SKIP
    >>> tokens = torch.tensor([source.tokenizer.encode("Mamba is")])  # doctest: +SKIP
    >>> source.model(tokens).shape  # doctest: +SKIP
    torch.Size([1, 4, 50280])

    Args:
        name: what `train` returned, a run folder, `latest`, the folder of a checkpoint (of
            transformers' MambaForCausalLM or of the original code), or owner/name on the Hugging
            Face hub.
        checkpoint: of a run: whose weights, best, last or step_N.
        tokenizer: of a checkpoint that has none: tokenizer.json, a folder, or owner/name.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16 or (on a GPU) fp16; what the result's `precision` is, weights
            are float32.
        output_dir: where `latest` looks.
        data_dir: where what comes from the hub is kept; None = $MAMBALAB_DATA_DIR, else ./data.
        trust: modules outside mambalab whose classes a run may use.

    Returns:
        A `LoadedClassifier` (`model`, `classes`, `predict`, `probabilities`) for a run that names
        classes, else a `LoadedLanguageModel` (`model`, `tokenizer`); its tokenizer is None where
        tokens are no text, or nothing says how text becomes tokens.

    Raises:
        UserError: no such model, or it cannot be loaded; one line says why.
    """
    from mambalab.runs import language_model

    if precision not in Precision.__members__:
        raise UserError(f"precision={precision}: choose one of {', '.join(Precision.__members__)}")
    trust = [*getattr(name, "trust", ()), *trust]
    name = os.fspath(name)
    is_run = name == "latest" or RunFolder(Path(name).expanduser()).config.is_file()
    if is_run and tokenizer is not None:
        raise UserError(f"tokenizer={tokenizer}: {name} is a run and has its own")
    folder = Path(output_dir).expanduser()
    if is_run or reader.is_run(folder / name):
        return language_model.opened(
            name,
            folder,
            device=device,
            precision=Precision[precision],
            trust=trust,
            which=_checkpoint(checkpoint),
        )
    if not Path(name).expanduser().exists() and name.count("/") != 1:  # not owner/name either
        raise UserError(
            f"{name}: no such run or folder; mambalab.runs() lists the runs there are, and a "
            "published model is owner/name"
        )
    if checkpoint != "best":
        raise UserError(f"checkpoint={checkpoint}: that is one of a run, and {name} is none")
    data_dir = data_dir or os.environ.get("MAMBALAB_DATA_DIR") or "data"
    place = Path(data_dir).expanduser()
    return language_model.published(name, tokenizer, place, device, Precision[precision])


def model_settings(option: str = "mamba", **changes: Any) -> ModelSettings:
    """Make the settings of a model as `mambalab train model=OPTION model.KEY=VALUE ...` has them.

    >>> import torch
    >>> from mambalab import model_settings
    >>> from mambalab.models import Mamba, MambaBlock
    >>> settings = model_settings(d_model=64, d_state=16)
    >>> mixer, block = Mamba(settings), MambaBlock(settings)
    >>> mixer(torch.randn(2, 100, 64)).shape  # (B, L, d_model)
    torch.Size([2, 100, 64])

    With a state the same layer goes on where it stopped:

    >>> x = torch.randn(2, 100, 64)
    >>> state = mixer.initial_state(batch_size=2, max_len=100)
    >>> first, second = mixer(x[:, :60], state), mixer(x[:, 60:], state)
    >>> torch.allclose(torch.cat((first, second), dim=1), mixer(x), atol=1e-5)
    True

    Args:
        option: mamba, transformer, transformer_equal_depth, hybrid, or one of ./conf/model.
        **changes: keys of the group `model`, such as d_model, n_layer, d_state, d_conv, expand.

    Raises:
        UserError: an unknown option or key, a value that is not allowed.
    """
    values = [assignment(f"model.{key}", value, ()) for key, value in changes.items()]
    overrides = prepare("train", [f"model={option}", *values])
    return config.compose("train", overrides).model
