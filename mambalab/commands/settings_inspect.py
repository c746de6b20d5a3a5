"""Settings of `mambalab inspect` (no torch here: the command line reads this)."""

from dataclasses import dataclass

from mambalab.errors import UserError
from mambalab.settings import DEVICE, DEVICE_HINT, FOLDER, RUN, option


@dataclass
class InspectSettings:
    """`mambalab inspect`."""

    run: str = option("run folder, or latest", **RUN)
    text: str | None = option("what a language model reads; null = a piece of the validation split")
    index: int | None = option(
        "other tasks: which example of the validation split; null = the first (0)", ge=0
    )
    layers: list[int] | None = option("numbers of the layers to show; null = all", ge=1)
    out: str | None = option("folder for page and pictures; null = inspect/ in the run", **FOLDER)
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)
    output_dir: str = option("folder in which run=latest looks", **FOLDER)
    data_dir: str | None = option("folder of the data sets; null = as the run recorded", **FOLDER)
    trust: list[str] = option("modules outside mambalab whose classes the run may use")

    def check(self) -> None:
        """Raise UserError if it is not clear what to read."""
        if self.text is not None and self.index is not None:
            raise UserError("inspect: give text (language models) or index (other tasks), not both")
        if self.text == "":
            raise UserError('text is empty: give at least one character, as in text="ROMEO:"')
        if self.layers == []:
            raise UserError("layers=[]: name at least one, as in layers=[1,2]")
