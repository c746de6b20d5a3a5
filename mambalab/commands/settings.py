"""Settings of the verbs that are not training (no torch here: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum

from mambalab.errors import UserError
from mambalab.settings import DEVICE, DEVICE_HINT, FOLDER, RUN, option


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
    prompt: str = option("text to continue")
    max_new_tokens: int = option("characters to write", ge=1)
    num_samples: int = option("texts to write", ge=1)
    temperature: float = option("below 1 safer, above 1 wilder; 0 = always the likeliest", ge=0)
    top_k: int | None = option("choose among the k likeliest characters; null = all", ge=1)
    top_p: float | None = option(
        "choose among the likeliest characters that share this probability; null = all", gt=0, le=1
    )
    seed: int = option("the same seed writes the same text", ge=0, lt=2**63)
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)
    output_dir: str = option("folder in which run=latest looks", **FOLDER)
    trust: list[str] = option("modules outside mambalab whose classes the run may use")


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
