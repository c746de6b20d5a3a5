"""Settings of `mambalab generate` (no torch here: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from mambalab.errors import UserError
from mambalab.settings.one_model import check_one_model
from mambalab.settings.rules import CHECKPOINT, DEVICE, DEVICE_HINT, FOLDER, RUN, option
from mambalab.settings.train import Precision


class Order(Enum):
    """Which hidden positions a model of `task=diffusion` fills in first."""

    random = "random"
    confidence = "confidence"


@dataclass
class GenerateSettings:
    """`mambalab generate`."""

    run: str = option("run folder, or latest", **RUN)
    checkpoint: str = option("weights of the run: best, last or step_N", **CHECKPOINT)
    pretrained: str | None = option("checkpoint folder, or owner/name on the hub", **FOLDER)
    tokenizer: str | None = option(
        "of pretrained: tokenizer.json, folder, or owner/name; null = found by itself", **FOLDER
    )
    prompt: str | None = option(
        "text to continue, \\n in it a new line, \\t a tab, \\\\ a backslash; null = a new line; "
        "for task=diffusion a text with gaps, null = nothing given"
    )
    prompt_file: str | None = option("file with the text to continue, as it stands there", **FOLDER)
    each_line: bool = option(
        "every line of prompt_file is a prompt of its own; blank lines are skipped"
    )
    max_new_tokens: int | None = option(
        "tokens (characters, mostly) to write, null = 500; beyond the window it was trained on "
        "(task.seq_len) a Transformer reads the latest half of the text again",
        ge=1,
    )
    out: str | None = option(
        "pictures: PNG file for the sheet; null = generated.png in the run", **FOLDER
    )
    class_name: str | None = option(
        "pictures: which class, by name or number, written class=3; null = each in turn"
    )
    prompt_image: str | None = option("pictures: image file whose rest is written", **FOLDER)
    rows: int | None = option(
        "pictures: rows of prompt_image that are given, from above; null = half of them", ge=1
    )
    mask_image: str | None = option(
        "pictures of task=diffusion: image file, white where prompt_image is filled in, black "
        "where it is given",
        **FOLDER,
    )
    gap: str | None = option(
        "texts of task=diffusion: character that stands for one to be filled in; null = _",
        match=r"[\s\S]",
        hint="one character",
    )
    steps: int | None = option(
        "task=diffusion: steps from hidden to filled in; null = one for each position, 64 at most",
        ge=1,
    )
    order: Order | None = option(
        "task=diffusion: which positions come first: random, or confidence, the surest; null = "
        "random"
    )
    frames: str | None = option(
        "task=diffusion: file for stages of the filling in, pictures as PNG, texts as lines",
        **FOLDER,
    )
    animation: str | None = option(
        "pictures of task=diffusion: PNG file for the same as a moving picture", **FOLDER
    )
    num_samples: int = option("texts to write for each prompt, or pictures", ge=1)
    batch: int = option("texts or pictures written at the same time", ge=1)
    temperature: float | None = option(
        "below 1 safer, above 1 wilder; 0 = always the likeliest; null = 0.8, for pictures and "
        "task=diffusion 1",
        ge=0,
    )
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
        check_one_model(self.run, self.pretrained, self.checkpoint, self.tokenizer)
        if self.prompt is not None and self.prompt_file is not None:
            raise UserError(f"prompt and prompt_file={self.prompt_file}: give one of them")
        if self.each_line and self.prompt_file is None:
            raise UserError("each_line=true: there are no lines; this goes with prompt_file=FILE")
        if self.rows is not None and self.prompt_image is None:
            raise UserError(f"rows={self.rows}: of which picture? This goes with prompt_image=FILE")
        if self.mask_image is not None and self.prompt_image is None:
            raise UserError(
                f"mask_image={self.mask_image}: of which picture? This goes with prompt_image=FILE"
            )
        if self.mask_image is not None and self.rows is not None:
            raise UserError(f"rows={self.rows} and mask_image={self.mask_image}: give one of them")
        if self.pretrained is not None:
            self.check_text(f"pretrained={self.pretrained}")

    def check_text(self, name: str) -> None:
        """Raise UserError if something is given that is not for `name`, which writes texts."""
        self._check_onwards(name)
        _refuse(self._given(*_OF_PICTURES), name, "texts")

    def check_pictures(self, name: str) -> None:
        """Raise UserError if something is given that is not for `name`, which writes pictures."""
        self._check_onwards(name)
        _refuse(self._of_texts(), name, "pictures")

    def check_filled_text(self, name: str) -> None:
        """Raise UserError if something is given that is not for `name`, which fills in texts."""
        _refuse(self._given(*_OF_PICTURES, "animation", "mask_image"), name, "texts")
        _refuse_onwards(self._only_onwards(), name)

    def check_filled_pictures(self, name: str) -> None:
        """Raise UserError if something is given that is not for `name`, which fills in pictures."""
        _refuse([*self._given("gap"), *self._of_texts()], name, "pictures")

    def _check_onwards(self, name: str) -> None:
        if given := self._given("steps", "order", "frames", "animation", "mask_image", "gap"):
            raise UserError(
                f"{given[0]}: {name} writes from the beginning to the end, and this is for runs of "
                "task=diffusion, which fill in; leave it out"
            )

    def _of_texts(self) -> list[str]:
        """What is given and for texts only."""
        of_texts = self._given("prompt", "prompt_file", "max_new_tokens")
        return [*of_texts, *self._only_onwards(), *(["json=true"] if self.json else [])]

    def _only_onwards(self) -> list[str]:
        """What is given and only for texts that are written on."""
        given = self._given("stop")
        if self.repetition_penalty != 1:
            given.append(f"repetition_penalty={self.repetition_penalty:g}")
        return given

    def _given(self, *keys: str) -> list[str]:
        """What somebody wrote of some keys that are null or empty if nobody does."""
        found = {key.removesuffix("_name"): getattr(self, key) for key in keys}
        words = {key: _as_written(value) for key, value in found.items()}
        return [
            f"{key}={value}"
            for key, value in words.items()
            if value is not None and found[key] != []
        ]


def _as_written(value: Any) -> Any:
    """A value as it may be typed."""
    if isinstance(value, list):
        return ",".join(value)
    return value.name if isinstance(value, Enum) else value


_OF_PICTURES = ("out", "class_name", "prompt_image", "rows")


def _refuse(given: list[str], name: str, what: str) -> None:
    if given:
        other = "pictures" if what == "texts" else "texts"
        raise UserError(f"{given[0]}: {name} writes {what}, and this is for {other}; leave it out")


def _refuse_onwards(given: list[str], name: str) -> None:
    if given:
        raise UserError(
            f"{given[0]}: {name} fills in, and this is for texts that are written from the "
            "beginning to the end; leave it out"
        )
