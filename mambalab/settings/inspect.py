"""Settings of `mambalab inspect` (no torch here: the command line reads this)."""

from dataclasses import dataclass

from mambalab.errors import UserError
from mambalab.settings.rules import DEVICE, DEVICE_HINT, FOLDER, RUN, option


@dataclass
class InspectSettings:
    """`mambalab inspect`."""

    run: str = option("run folder, or latest", **RUN)
    pretrained: str | None = option("checkpoint folder, or owner/name on the hub", **FOLDER)
    tokenizer: str | None = option(
        "of pretrained: tokenizer.json, folder, or owner/name; null = found by itself", **FOLDER
    )
    text: str | None = option(
        "what a language model reads, \\n in it a new line; null = a piece of the validation "
        "split, or a text of ours"
    )
    index: int | None = option(
        "other tasks: which example of the validation split; null = the first (0)", ge=0
    )
    layers: list[int] | None = option("numbers of the layers to show; null = all", ge=1)
    out: str | None = option(
        "folder for page and pictures; null = inspect/ in the run, or OUTPUT_DIR/inspect/NAME",
        **FOLDER,
    )
    device: str = option(DEVICE_HINT, match=DEVICE, hint=DEVICE_HINT)
    output_dir: str = option("folder in which run=latest looks", **FOLDER)
    data_dir: str | None = option(
        "folder of the data sets and of pretrained models; null = as the run recorded", **FOLDER
    )
    trust: list[str] = option("modules outside mambalab whose classes the run may use")

    def check(self) -> None:
        """Raise UserError if it is not clear what to read, or which model."""
        if self.pretrained is not None and self.run != "latest":
            raise UserError(f"run={self.run} and pretrained={self.pretrained}: give one of them")
        if self.tokenizer is not None and self.pretrained is None:
            raise UserError(
                f"tokenizer={self.tokenizer}: a run has its own; this goes with pretrained=FOLDER"
            )
        if self.pretrained is not None and self.index is not None:
            raise UserError("index: a pretrained model reads a text (text=...)")
        if self.text is not None and self.index is not None:
            raise UserError("inspect: give text (language models) or index (other tasks), not both")
        if self.text == "":
            raise UserError('text is empty: give at least one character, as in text="ROMEO:"')
        if self.layers == []:
            raise UserError("layers=[]: name at least one, as in layers=[1,2]")
