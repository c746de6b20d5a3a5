"""Settings of tasks (no torch here: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING

from mambalab.errors import UserError
from mambalab.settings.rules import NAME, NAME_HINT, option


class Windows(Enum):
    """Where the windows of a text that a model is trained on begin."""

    random = "random"
    fixed = "fixed"


PLACES = ("path", "val_path", "test_path")
"""Keys of `TextSettings` that name a file or folder, or a list of them."""
PICTURE_DATA = ("digits", "mnist", "cifar10")
"""Values of `PixelModelSettings.data` that are no folder."""
TEXT_DATA = "text"
"""Value of `DiffusionSettings.data` that is no pictures: tiny Shakespeare."""

_PLACES: dict[str, Any] = {
    "match": r"[\s\S]+",
    "path": True,
    "hint": "the path of a file or folder, a list of them, hf:OWNER/NAME, or null",
}
_TOKENIZER: dict[str, Any] = {
    "match": r"[\s\S]+",
    "path": True,
    "hint": "char, bytes, bpe:N, the path of a file or folder, owner/name, or null",
}

_BACKGROUND: dict[str, Any] = {
    "match": r"white|black|[1-9]?[0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5]",
    "hint": "white, black, or a grey level from 0 to 255",
}


def _places(key: str, value: Any) -> str | list[str] | None:
    """A setting of paths, in YAML perhaps a number; raises UserError for what is none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(v, str | int | float) for v in value):
        return [str(one) for one in value]
    if isinstance(value, int | float):
        return str(value)
    raise UserError(f"task.{key}: must be {_PLACES['hint']}")


@dataclass
class TaskSettings:
    """What every task has; a class of your own finds its free options in `params`."""

    name: str = option("name of the task in run folders and reports", match=NAME, hint=NAME_HINT)
    _target_: str = option("class that builds the task; your own class may stand here")
    batch_size: int = option("sequences in a training batch", ge=1)
    eval_batch_size: int = option("sequences in an evaluation batch", ge=1)
    tune: bool | None = option(
        "true: validate on a tenth of the training data, to choose settings without a look at "
        "the reported splits; null = no"
    )
    params: dict[str, Any] = option("free options for a class of your own")

    def __post_init__(self) -> None:
        """Turn false into null: a run with either is the same as one of before there was `tune`."""
        self.tune = self.tune or None


@dataclass
class TextSettings(TaskSettings):
    """Language modelling of texts."""

    path: Any = option(
        "UTF-8 text file, a list of them, a folder, or hf:OWNER/NAME on the hub; null = the text "
        "that comes with the task",
        **_PLACES,
    )
    files: str | None = option(
        "files of a folder: a pattern for their names, as in '*.py', or for their paths below it; "
        "null = *.txt and *.md",
        match=r"[\s\S]+",
        hint="a pattern such as '*.txt', or null",
    )
    column: str | None = option("column of the texts in a parquet file; null = text, content, ...")
    val_path: Any = option(
        "texts to validate on, as task.path; null = the end of task.path", **_PLACES
    )
    test_path: Any = option("texts for the final test, as task.path; null = no test", **_PLACES)
    tokenizer: str | None = option(
        "char, bytes, bpe:N (N tokens learnt from the training text), or a tokenizer.json, a "
        "folder, owner/name on the hub; null = that of model.pretrained, else char",
        **_TOKENIZER,
    )
    seq_len: int = option("characters (tokens, with a tokenizer) in a training window", ge=1)
    val_fraction: float = option("share at the end of the text held out for validation", gt=0, lt=1)
    windows: Windows | None = option(
        "training windows: random = anywhere; fixed = side by side, in a new order each epoch; "
        "null = random"
    )

    def __post_init__(self) -> None:
        """Turn random into null: a run with either is the same as one of before."""
        super().__post_init__()
        self.windows = Windows.fixed if self.windows is Windows.fixed else None
        for key in ("files", "column", *PLACES):
            if getattr(self, key) == MISSING:  # an object made by hand, as of before
                setattr(self, key, None)
        for key in PLACES:
            setattr(self, key, _places(key, getattr(self, key)))


@dataclass
class ClassificationSettings(TaskSettings):
    """What every task that names a class for a whole sequence has."""

    label_smoothing: float = option("share of the target spread over all classes", ge=0, lt=1)


@dataclass
class AugmentSettings:
    """Random changes to training images, each image its own; 0 switches one off."""

    flip: bool = option("mirror half of the images, left and right")
    crop: int = option("shift by up to so many pixels either way", ge=0)
    rotation: float = option("turn by up to so many degrees either way", ge=0, le=180)
    perspective: float = option("tilt: strength 0 to 1", ge=0, le=1)
    erasing: float = option("probability of blanking a rectangle", ge=0, le=1)


@dataclass
class ImageSettings(ClassificationSettings):
    """Images read as sequences."""

    augment: AugmentSettings = option("random changes to training images")
    val_size: Any = option(
        "training images held out for validation: how many, or a share of each class, as in 0.1",
        share=True,
        ge=1,
    )


@dataclass
class PixelSettings(ImageSettings):
    """Images read row by row, `input_dim` pixels a step."""

    input_dim: int = option("pixels a step; must divide the image's", ge=1)
    permute: bool = option("read the pixels in a fixed random order")


@dataclass
class PatchSettings(ImageSettings):
    """Images read patch by patch, each patch a step."""

    patch_size: int = option("side of a patch; must divide the image's", ge=1)


@dataclass
class FolderSettings(PatchSettings):
    """A folder of images with a class in each of its sub-folders."""

    path: str | None = option(
        "folder with a sub-folder for each class", match=r"[\s\S]+", hint="the path of a folder"
    )
    background: str | None = option(
        "behind transparent images: white, black or a grey level, 0 to 255; null = white",
        **_BACKGROUND,
    )
    image_size: int = option("side to which images are scaled and cropped", ge=1)
    test_size: Any = option(
        "images held out for the final test: how many, or a share of each class, as in 0.1",
        share=True,
        ge=1,
    )


@dataclass
class PixelModelSettings(TaskSettings):
    """Pictures, written pixel by pixel."""

    data: str = option(
        "digits, mnist, cifar10, or a folder of pictures; of classes: a sub-folder for each",
        match=r"[\s\S]+",
        path=True,
        hint="digits, mnist, cifar10, or the path of a folder",
    )
    levels: int = option("levels of a value, each a token: floor(v * levels / 256)", ge=2, le=256)
    size: int | None = option(
        "side to which pictures are made smaller; null = as they are, 32 for a folder", ge=2
    )
    colour: bool = option("red, green and blue of each pixel, one after the other; else its grey")
    classes: bool = option("the first token tells the class")
    background: str | None = option(
        "a folder's transparent pictures lie on white, black or a grey level, 0 to 255; null = "
        "white",
        **_BACKGROUND,
    )
    val_size: Any = option(
        "training pictures held out for validation: how many, or a share of each class, as in 0.1",
        share=True,
        ge=1,
    )
    test_size: Any = option(
        "pictures of a folder held out for the final test, likewise", share=True, ge=1
    )

    def check(self) -> None:
        """Raise UserError for colours of grey pictures."""
        if self.colour and self.data in ("digits", "mnist"):
            raise UserError(
                f"task.colour=true: the pictures of task.data={self.data} are grey; leave it out"
            )

    def folder(self) -> str | None:
        """The folder that `data` names; None for a data set that mambalab knows."""
        return None if self.data in PICTURE_DATA else self.data


@dataclass
class DiffusionSettings(PixelModelSettings):
    """Pictures or texts, filled in from both sides."""

    data: str = option(
        "digits, mnist, cifar10, a folder of pictures, or text: the characters of tiny Shakespeare",
        match=r"[\s\S]+",
        path=True,
        hint="digits, mnist, cifar10, text, or the path of a folder",
    )
    seq_len: int | None = option("task.data=text: characters in a window; null = 256", ge=2)
    eval_samples: int = option(
        "times that each sequence is measured, each time with other positions hidden", ge=2
    )

    def check(self) -> None:
        """Raise UserError for what is of pictures and given for a text, or the other way round."""
        super().check()
        if not self.is_text():
            if self.seq_len is not None:
                raise UserError(
                    f"task.seq_len={self.seq_len}: that is for task.data=text; pictures are as "
                    "long as they have values (task.size makes them smaller)"
                )
            return
        of_pictures = {"colour": self.colour, "classes": self.classes, "size": self.size}
        for key, value in of_pictures.items():
            if value not in (False, None):
                raise UserError(
                    f"task.{key}={str(value).lower()}: that is for pictures, task.data=text has "
                    "none; leave it out"
                )

    def is_text(self) -> bool:
        """Whether the data are a text."""
        return self.data == TEXT_DATA

    def folder(self) -> str | None:
        """The folder that `data` names; None for data that mambalab knows."""
        return None if self.is_text() else super().folder()


@dataclass
class PairSettings(ClassificationSettings):
    """Two texts, read byte by byte, and how they belong together."""

    path: str | None = option(
        "TSV file: label, text, text; null = the data that come with the task",
        match=r"[\s\S]+",
        path=True,
        hint="the path of a file, or null",
    )
    max_bytes: int = option("bytes of a text that are read; the rest is cut off", ge=1)
    val_fraction: float = option("share held out for validation (task=pairs)", gt=0, lt=1)
    test_fraction: float = option("share held out for the final test (task=pairs)", gt=0, lt=1)


@dataclass
class ClassifySettings(ClassificationSettings):
    """One text and its class."""

    path: str | None = option(
        "CSV, TSV, JSONL or parquet file with a text and a label in each row, or hf:OWNER/NAME on "
        "the hub",
        match=r"[\s\S]+",
        path=True,
        hint="the path of a file, or hf:OWNER/NAME",
    )
    text: str | None = option(
        "column of the texts: its name, or its number in a file without a header, from 1; null = "
        "text, sentence, review, ..."
    )
    label: str | None = option("column of the labels, likewise; null = label, class, target, ...")
    tokenizer: str | None = option(
        "bytes, char, bpe:N (N tokens learnt from the training texts), or a tokenizer.json, a "
        "folder, owner/name on the hub; null = bytes",
        **_TOKENIZER,
    )
    max_bytes: int = option("bytes of a text that are read; the rest is cut off", ge=1)
    val_size: Any = option(
        "texts held out for validation: how many, or a share, as in 0.1", share=True, ge=1
    )
    test_size: Any = option(
        "texts held out for the final test: how many, or a share, as in 0.1", share=True, ge=1
    )

    def __post_init__(self) -> None:
        """Turn bytes into null: a run with either is the same as one of before."""
        super().__post_init__()
        self.tokenizer = None if self.tokenizer in ("bytes", MISSING) else self.tokenizer


@dataclass
class ListOpsSettings(ClassificationSettings):
    """Nested operations on lists of digits (arXiv 2011.04006, section 2.2.1)."""

    path: str | None = option(
        "folder with basic_train.tsv, basic_val.tsv and basic_test.tsv of Long Range Arena; null = "
        "expressions are made up",
        match=r"[\s\S]+",
        path=True,
        hint="the path of a folder, or null",
    )
    min_words: int = option("words of an expression must be more", ge=0)
    max_words: int = option("words of an expression must be less", ge=2, le=20_000)
    max_depth: int = option("depth of the innermost digits; 1 = no operator", ge=1, le=100)
    max_args: int = option("arguments of an operator at most, 2 at least", ge=2, le=1000)
    train_size: int = option("expressions to train with", ge=1)
    val_size: int = option("expressions held out for validation", ge=1)
    test_size: int = option("expressions held out for the final test", ge=1)
    data_seed: int = option(
        "of the expressions, whatever the run's seed is; another one makes other data", ge=0
    )
    round_brackets: bool = option("read the parentheses around each argument, too")

    def check(self) -> None:
        """Raise UserError if no expression can be as long as asked."""
        if self.path is not None:
            return  # none are made up
        if self.max_words < self.min_words + 2:
            raise UserError(
                f"task.min_words={self.min_words}, task.max_words={self.max_words}: no length "
                "is more than the one and less than the other"
            )
        if self.max_words <= 4 and self.min_words > 0:
            raise UserError(
                f"task.min_words={self.min_words}, task.max_words={self.max_words}: an expression "
                "is one digit, or has four words and more"
            )
        longest = 1
        for _ in range(self.max_depth - 1):
            longest = min(2 + self.max_args * longest, self.max_words)
        if longest <= self.min_words:
            raise UserError(
                f"task.max_depth={self.max_depth}, task.max_args={self.max_args}: expressions have "
                f"at most {longest:,} words, but must have more than "
                f"task.min_words={self.min_words}"
            )
        digits_alone = self.max_words <= 4 or self.max_depth == 1
        if digits_alone and self.train_size + self.val_size + self.test_size > 10:
            raise UserError(
                f"task.max_words={self.max_words}, task.max_depth={self.max_depth}: there are ten "
                "such expressions, a digit each, but task.train_size, task.val_size and "
                "task.test_size ask for more"
            )


@dataclass
class SelectiveCopyingSettings(TaskSettings):
    """Selective copying (arXiv 2312.00752, section 4.1.1)."""

    seq_len: int = option("steps among which the tokens are hidden", ge=1)
    copies: int = option("tokens to remember", ge=1)
    vocab_size: int = option("kinds of token, noise and the sign to answer included", ge=3)
    eval_sequences: int = option("sequences in a validation or test split", ge=1)

    def check(self) -> None:
        """Raise UserError if the tokens do not fit."""
        if self.copies > self.seq_len:
            raise UserError(f"task.copies={self.copies}: at most task.seq_len={self.seq_len}")


@dataclass
class InductionHeadsSettings(TaskSettings):
    """Induction heads (arXiv 2312.00752, section 4.1.2)."""

    seq_len: int = option("length of the training sequences", ge=4)
    vocab_size: int = option("kinds of token, the special one included", ge=3)
    eval_sequences: int = option("sequences of each length in an evaluation", ge=1)
    longest: int = option("test at 2, 4, ... so many times task.seq_len", ge=2)
