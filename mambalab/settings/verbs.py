"""Settings of the verbs that are not training (no torch here: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum

from mambalab.errors import UserError
from mambalab.settings.rules import DEVICE, DEVICE_HINT, FOLDER, RUN, option
from mambalab.settings.train import Precision


class Split(Enum):
    """Parts of a data set."""

    train = "train"
    val = "val"
    test = "test"
    train_sample = "train_sample"


class DataAction(Enum):
    """What `mambalab data` can do."""

    list = "list"
    fetch = "fetch"
    verify = "verify"


@dataclass
class EvalSettings:
    """`mambalab eval`."""

    run: str = option("run folder, or latest", **RUN)
    split: Split = option("part of the data to score")
    stateful: bool = option("also score one pass with the state carried across windows (Mamba)")
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)
    output_dir: str = option("folder in which run=latest looks", **FOLDER)
    data_dir: str | None = option("folder of the data sets; null = as the run recorded", **FOLDER)
    path: str | None = option(
        "what task.path named and lies elsewhere now; null = as trained",
        match=r"[\s\S]+",
        hint="the path of a file or folder, or null",
    )
    trust: list[str] = option("modules outside mambalab whose classes the run may use")


@dataclass
class GenerateSettings:
    """`mambalab generate`."""

    run: str = option("run folder, or latest", **RUN)
    pretrained: str | None = option("checkpoint folder, or owner/name on the hub", **FOLDER)
    tokenizer: str | None = option(
        "of pretrained: tokenizer.json, folder, or owner/name; null = found by itself", **FOLDER
    )
    prompt: str | None = option(
        "text to continue, \\n in it a new line, \\t a tab, \\\\ a backslash; null = a new line"
    )
    prompt_file: str | None = option("file with the text to continue, as it stands there", **FOLDER)
    each_line: bool = option(
        "every line of prompt_file is a prompt of its own; blank lines are skipped"
    )
    max_new_tokens: int = option(
        "tokens (characters, mostly) to write; beyond the window it was trained on (task.seq_len) "
        "a Transformer reads the latest half of the text again",
        ge=1,
    )
    num_samples: int = option("texts to write for each prompt", ge=1)
    batch: int = option("texts written at the same time", ge=1)
    temperature: float = option("below 1 safer, above 1 wilder; 0 = always the likeliest", ge=0)
    top_k: int | None = option("choose among the k likeliest tokens; null = all", ge=1)
    top_p: float | None = option(
        "choose among the likeliest tokens that share this probability; null = all", gt=0, le=1
    )
    min_p: float | None = option(
        "choose among tokens at least so likely, relative to the likeliest; null = all", ge=0, le=1
    )
    repetition_penalty: float = option("above 1: tokens that occurred become less likely", gt=0)
    stop: list[str] = option(
        "texts at which writing ends, commas between them, \\n as in prompt: 'stop=\\n\\n,THE END'",
        match=r"[\s\S]+",
        hint="texts of at least one character; stop=[] for none",
    )
    seed: int = option("the same seed writes the same text", ge=0, lt=2**63)
    json: bool = option("print a JSON object for each text, nothing else")
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)
    precision: Precision = option("arithmetic of matrix products; the state stays float32")
    data_dir: str = option("folder of the data sets and of pretrained models", **FOLDER)
    output_dir: str = option("folder in which run=latest looks", **FOLDER)
    trust: list[str] = option("modules outside mambalab whose classes the run may use")

    def check(self) -> None:
        """Raise UserError for two models or prompts at once, or half of what goes together."""
        if self.pretrained is not None and self.run != "latest":
            raise UserError(f"run={self.run} and pretrained={self.pretrained}: give one of them")
        if self.tokenizer is not None and self.pretrained is None:
            raise UserError(
                f"tokenizer={self.tokenizer}: a run has its own; this goes with pretrained=FOLDER"
            )
        if self.prompt is not None and self.prompt_file is not None:
            raise UserError(f"prompt and prompt_file={self.prompt_file}: give one of them")
        if self.each_line and self.prompt_file is None:
            raise UserError("each_line=true: there are no lines; this goes with prompt_file=FILE")


@dataclass
class DataSettings:
    """`mambalab data ACTION [NAME]`."""

    action: DataAction = option("what to do")
    name: str | None = option("data set to fetch or verify")
    data_dir: str = option("folder of the data sets", **FOLDER)

    def check_ready(self) -> None:
        """Raise UserError if a name is needed and missing."""
        if self.action is not DataAction.list and not self.name:
            raise UserError(
                f"data {self.action.value}: which data set? "
                f"e.g. mambalab data {self.action.value} shakespeare"
            )


@dataclass
class DoctorSettings:
    """`mambalab doctor`."""

    output_dir: str = option("folder where runs go", **FOLDER)
    data_dir: str = option("folder of the data sets", **FOLDER)
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)
