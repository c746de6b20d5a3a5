"""The registry of verbs: to add one, write a record here and a file `commands/NAME.py`.

That file opens with the verb's settings class and holds its `run(settings) -> int`; the values of
the settings are in `conf/NAME.yaml`. Help, completion, plain words and dispatch read the record.
"""

from dataclasses import dataclass
from importlib import import_module

SHELLS = ("bash", "zsh", "fish")
FLAGS = ("--help", "--cfg", "--multirun")


@dataclass(frozen=True)
class Verb:
    """What the command line knows of a verb before it imports the verb's file.

    Attributes:
        name: the verb; its file is `mambalab/commands/<name>.py`, its values `conf/<name>.yaml`.
        summary: one line for the overview.
        settings: name of the settings class in the verb's file; None for `completion` alone, which
            the command line itself carries out.
        usage: what may follow the verb, for `--help`.
        examples: what follows `mambalab`, each a complete command.
        note: a paragraph below the options.
        positional: keys that plain words set, in order. A key that ends in "..." takes all the
            words that are left, as paths of run folders; `run` takes one that is there, or latest.
        words: function in the verb's file that offers plain words for completion, given those
            before; "" = the members of the key's type.
        switches: keys of the type bool that `--KEY` sets, too.
        multirun: whether `-m` runs several jobs.
        needs: packages whose versions are checked before the verb runs; what only some settings
            need, as MLflow, is checked where those are.
    """

    name: str
    summary: str
    settings: str | None
    usage: str = "[KEY=VALUE ...] [--cfg job]"
    examples: tuple[str, ...] = ()
    note: str = ""
    positional: tuple[str, ...] = ()
    words: str = ""
    switches: tuple[str, ...] = ()
    multirun: bool = False
    needs: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Full name of the verb's file."""
        return f"mambalab.commands.{self.name}"

    @property
    def takes_paths(self) -> bool:
        """Whether plain words are paths of run folders."""
        return any(key.endswith("...") or key == "run" for key in self.positional)

    def flags(self) -> list[str]:
        """What may be written with dashes."""
        of_all = FLAGS if self.multirun else FLAGS[:2]
        return [*of_all, *(f"--{key}" for key in self.switches)]

    def settings_class(self) -> type:
        """The settings class; raises TypeError for a verb without settings."""
        if self.settings is None:
            raise TypeError(f"{self.name} has no settings")
        found = getattr(import_module(self.module), self.settings)
        assert isinstance(found, type)
        return found

    def offered(self, words: list[str]) -> list[str]:
        """Plain words that can follow `words`, as the verb's own function has it."""
        return getattr(import_module(self.module), self.words)(words) if self.words else []


_MODEL = ("torch", "triton", "numba", "numpy", "safetensors", "tokenizers")
_DATA = ("pyarrow", "pillow", "huggingface_hub", "filelock")
_PICTURES = ("matplotlib", "numpy", "scipy")

_RECORDS = (
    Verb(
        "train",
        "train a model on a task",
        "TrainConfig",
        usage="[-m] [GROUP=OPTION ...] [KEY=VALUE ...] [--cfg job]",
        examples=(
            "train experiment=quickstart",
            "train task=shakespeare model=mamba dropout=ssm",
            "train task=text task.path=book.txt optim.lr=1e-3 trainer.max_minutes=5",
            "train -m model=mamba,transformer seed=1,2,3 hydra/launcher=local",
        ),
        note="The same command finds its own run again: a finished one is left alone, a partial "
        "one goes on. -m runs every combination of values separated by commas, as one sweep that "
        "the same command takes up again. A folder ./conf adds "
        "options to the groups or replaces them by name, and may name classes of your own as "
        "_target_: my_module.MyTask.",
        multirun=True,
        needs=(*_MODEL, *_DATA, "matplotlib", "tqdm"),
    ),
    Verb(
        "runs",
        "list runs: status, best metric, date, what differs, path",
        "RunsSettings",
        usage="[FOLDER | SWEEP ...] [--follow] [KEY=VALUE ...]",
        examples=(
            "runs",
            "runs outputs/shakespeare where=model.name=mamba sort=best",
            "runs format=csv where='val/loss<1.5,tags=draft'",
            "runs latest --follow",
        ),
        note="Conditions are KEY=VALUE, or with != < <= > >= or ~ (contains) between; KEY is a "
        "setting, a metric, or one of status, task, model, dropout, name, tags, steps, minutes, "
        "best, parameters. --follow shows the jobs of a sweep that runs elsewhere until it ends.",
        positional=("paths...",),
        switches=("follow",),
    ),
    Verb(
        "compare",
        "compare runs over seeds: tables, verdicts, pictures",
        "CompareSettings",
        usage="PATH ... [KEY=VALUE ...]",
        examples=(
            "compare latest",
            "compare outputs/shakespeare/mamba baseline=dropout=none to=1.6",
            "compare mlflow=shakespeare interval=bootstrap",
        ),
        positional=("paths...",),
        needs=_PICTURES,
    ),
    Verb(
        "report",
        "write one page to hand in: a run, a sweep or any runs",
        "ReportSettings",
        usage="[PATH ...] [KEY=VALUE ...]",
        examples=(
            "report",
            "report outputs/shakespeare/mamba baseline=dropout=none out=report.html",
            "report latest out=report.pdf",
            "report latest format=latex out=table.tex",
        ),
        note="The page needs no network and no other file. Chromium, Chrome or Edge, where one is "
        "installed, makes a PDF of it; every browser prints it to one.",
        positional=("paths...",),
        needs=_PICTURES,
    ),
    Verb(
        "record",
        "keep runs for the record: settings, results and curves in one small file",
        "RecordSettings",
        usage="PATH ... to=FOLDER [KEY=VALUE ...]",
        examples=("record latest to=records/night",),
        note=(
            "Refuses runs of code with uncommitted changes and runs that have not ended. "
            "`mambalab compare FOLDER` reads what it wrote."
        ),
        positional=("paths...",),
    ),
    Verb(
        "eval",
        "score a trained model on a split",
        "EvalSettings",
        usage="[RUN] [KEY=VALUE ...] [--cfg job]",
        positional=("run",),
        examples=("eval", "eval outputs/text/mamba/ssm-0f3a9c21-s1 split=val"),
        needs=(*_MODEL, *_DATA),
    ),
    Verb(
        "generate",
        "let a trained language model write",
        "GenerateSettings",
        usage="[RUN] [KEY=VALUE ...] [--cfg job]",
        positional=("run",),
        examples=(
            'generate prompt="ROMEO:"',
            "generate pretrained=state-spaces/mamba-130m-hf prompt=Mamba",
            "generate latest temperature=0.5 top_k=20 max_new_tokens=1000",
        ),
        needs=(*_MODEL, *_DATA),
    ),
    Verb(
        "inspect",
        "show what a trained model does with a text or an image",
        "InspectSettings",
        usage="[RUN] [KEY=VALUE ...] [--cfg job]",
        positional=("run",),
        examples=(
            'inspect text="To be, or not to be"',
            'inspect pretrained=exported text="ROMEO:"',
            "inspect outputs/mnist/mamba/standard-0f3a9c21-s1 index=7",
        ),
        needs=(*_MODEL, *_DATA, "matplotlib"),
    ),
    Verb(
        "export",
        "write a trained model for transformers or the original Mamba code",
        "ExportSettings",
        usage="[RUN] [KEY=VALUE ...] [--cfg job]",
        positional=("run",),
        examples=(
            "export latest out=exported",
            "export to=original out=exported overwrite=true",
        ),
        needs=_MODEL,
    ),
    Verb(
        "summary",
        "sum up a model: layers, parameters, operations, memory",
        "SummarySettings",
        usage="[RUN] [GROUP=OPTION ...] [KEY=VALUE ...] [--cfg job]",
        examples=(
            "summary task=shakespeare model=mamba",
            "summary task=mnist model=transformer model.d_model=256 format=json",
            "summary latest",
        ),
        note="Nothing is computed and no run is made; the task's data are read, and fetched if "
        "absent, where a vocabulary or classes depend on them. With RUN its own settings count.",
        positional=("run",),
        needs=(*_MODEL, *_DATA),
    ),
    Verb(
        "data",
        "list, fetch or verify data sets",
        "DataSettings",
        usage="[list | fetch NAME | verify NAME] [KEY=VALUE ...]",
        examples=("data list", "data fetch shakespeare"),
        positional=("action", "name"),
        words="words",
        needs=("numpy", *_DATA),
    ),
    Verb(
        "experiments",
        "list the ready-made experiments: purpose, time",
        "ExperimentsSettings",
        usage="[WORD] [KEY=VALUE ...]",
        examples=("experiments", "experiments shakespeare"),
        positional=("match",),
        words="words",
    ),
    Verb(
        "tasks",
        "list the tasks: what each asks, its data",
        "TasksSettings",
        usage="[WORD] [KEY=VALUE ...]",
        examples=("tasks", "tasks text"),
        positional=("match",),
    ),
    Verb(
        "bench",
        "measure scan, training, writing, data or recording",
        "BenchSettings",
        usage="scan|train|generate|data|tracking [KEY=VALUE ...] [--cfg job]",
        examples=(
            "bench scan",
            "bench generate 'lengths=[256,4096]' 'batches=[1]'",
            "bench data 'tasks=[mnist]'",
        ),
        positional=("what",),
        needs=(*_MODEL, *_DATA, "matplotlib"),
    ),
    Verb(
        "sync",
        "send recorded runs to MLflow, wandb or TensorBoard",
        "SyncSettings",
        usage="RUN ... [KEY=VALUE ...]",
        examples=("sync latest", "sync outputs/text/mamba/ssm-0f3a9c21-s1 to=tensorboard"),
        positional=("runs...",),
    ),
    Verb(
        "remove",
        "remove runs: folder and MLflow run, after a question",
        "RemoveSettings",
        usage="RUN ... [--yes] [KEY=VALUE ...]",
        examples=(
            "remove outputs/text/mamba/ssm-0f3a9c21-s1",
            "remove outputs/sweeps/text-dropout-5f2c1a90 yes=true",
        ),
        positional=("runs...",),
        switches=("yes",),
    ),
    Verb(
        "doctor",
        "check this machine: what works, what is missing",
        "DoctorSettings",
        examples=("doctor", "doctor data_dir=/data"),
    ),
    Verb(
        "ui",
        "look at runs in MLflow's pages",
        "UiSettings",
        usage="[RUN] [KEY=VALUE ...] [--cfg job]",
        positional=("run",),
        examples=("ui", "ui latest", "ui port=5001 open=false"),
        needs=("mlflow",),
    ),
    Verb("completion", "print the completion script of a shell", None),
)
VERBS = {verb.name: verb for verb in _RECORDS}

_MEANT = {
    "train": "fit run start finetune fine-tune resume continue learn",
    "train -m": "sweep search tune multirun grid hpo optuna",
    "train --cfg job": "config cfg settings show-config",
    "runs": "list ls status history ps results log logs",
    "runs latest --follow": "watch follow monitor progress sweep-status",
    "compare": "plot plots chart graph draw curves diff",
    "report": "html pdf latex print handout",
    "summary": "summarize summarise describe parameters flops params size",
    "eval": "evaluate test score validate val accuracy",
    "generate": "sample predict infer inference chat complete write",
    "inspect": "explain visualize visualise show attention view",
    "export": "convert save push upload",
    "data fetch": "download fetch get prepare",
    "data list": "datasets dataset",
    "experiments": "experiment recipes examples example",
    "tasks": "task benchmarks",
    "bench": "benchmark speed profile time",
    "remove": "delete rm del clean clear prune",
    "doctor": "check info env version diagnose",
    "ui": "mlflow dashboard tensorboard web server",
}
# First words that people try, and the verb that does it.
OTHER_WORDS = {word: verb for verb, words in _MEANT.items() for word in words.split()}
