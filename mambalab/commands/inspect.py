"""`mambalab inspect`: a page and pictures of what a trained model does with one sequence."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from mambalab.errors import UserError
from mambalab.settings.figure import PlainFigureSettings
from mambalab.settings.one_model import check_one_model
from mambalab.settings.rules import CHECKPOINT, DEVICE, DEVICE_HINT, FOLDER, RUN, option
from mambalab.settings.train import Precision
from mambalab.utils import console
from mambalab.utils.reading import check_no_link

if TYPE_CHECKING:
    from mambalab.inspect.examples import InspectInput

Facts = list[tuple[str, str]]

LOG = logging.getLogger("mambalab")


@dataclass
class InspectSettings:
    """`mambalab inspect`."""

    run: str = option("run folder, or latest", **RUN)
    checkpoint: str = option("weights of the run: best, last or step_N", **CHECKPOINT)
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
    path: str | None = option(
        "what task.path or task.data named and lies elsewhere now; null = as trained",
        path=True,
        hint="the path of a file or folder, or null",
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
    figure: PlainFigureSettings = MISSING

    def check(self) -> None:
        """Raise UserError if it is not clear what to read, or which model."""
        check_one_model(self.run, self.pretrained, self.checkpoint, self.tokenizer)
        if self.pretrained is not None and self.index is not None:
            raise UserError("index: a pretrained model reads a text (text=...)")
        if self.text is not None and self.index is not None:
            raise UserError("inspect: give text (language models) or index (other tasks), not both")
        if self.path is not None and (self.pretrained is not None or self.text is not None):
            what = "text" if self.pretrained is None else "pretrained"
            raise UserError(
                f"path={self.path}: with {what} no data are read; leave one of them out"
            )
        if self.text == "":
            raise UserError('text is empty: give at least one character, as in text="ROMEO:"')
        if self.layers == []:
            raise UserError("layers=[]: name at least one, as in layers=[1,2]")


def run(settings: InspectSettings) -> int:
    """Write page and pictures, print where they are; returns 0.

    Raises:
        UserError: no such run or checkpoint, something that it cannot read, a folder that cannot
            be written.
    """
    from mambalab.inspect import page, pictures, trace
    from mambalab.plots.look import check_font
    from mambalab.train import runtime

    check_font(settings.figure)
    runtime.prepare_process()
    opened = _of_run(settings) if settings.pretrained is None else _of_checkpoint(settings)
    model, given, facts, default_folder = opened
    sequence = given.sequence
    output, layers = trace.record(model, given.inputs, given.lengths, settings.layers)
    given.answer(output, sequence)
    sequence.facts = [*facts, *sequence.facts]
    out = default_folder if settings.out is None else Path(settings.out).expanduser()
    if settings.out is None:
        check_no_link(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {out}: {error.strerror}; name another with out=") from error
    again = (out / "index.html").exists()
    console.result(page.write(sequence, layers, out / "index.html"))
    for picture in pictures.draw(sequence, layers, out, settings.figure):
        console.result(picture)
    older = "; it replaces an older page, out=FOLDER keeps both" if again else ""
    LOG.info("open %s in a browser%s", out / "index.html", older)
    return 0


def _of_run(settings: InspectSettings) -> "tuple[Any, InspectInput, Facts, Path]":
    """A run's model, what it reads, facts about it, and the folder for the page by default."""
    from mambalab.inspect import examples
    from mambalab.records import reader
    from mambalab.runs import load

    path = reader.resolve_run(settings.run, Path(settings.output_dir))
    loaded = load.load_run(
        path, device=settings.device, trust=settings.trust, which=settings.checkpoint
    )
    model = loaded.settings.model
    facts = [
        ("run", str(path)),
        ("model", f"{model.name}, {_layers(model.n_layer)} of width {model.d_model}"),
        ("weights", loaded.weights()),
    ]
    given = examples.choose(loaded, settings.text, settings.index, settings.data_dir, settings.path)
    return loaded.model, given, facts, path / "inspect"


def _of_checkpoint(settings: InspectSettings) -> "tuple[Any, InspectInput, Facts, Path]":
    """A published checkpoint's model, what it reads, facts, and the folder by default."""
    from mambalab.inspect import examples
    from mambalab.runs import language_model

    assert settings.pretrained is not None
    source = language_model.language_model(
        run=settings.run,
        output_dir=Path(settings.output_dir),
        pretrained=settings.pretrained,
        tokenizer=settings.tokenizer,
        data_dir=Path(settings.data_dir or "data").expanduser(),
        device=settings.device,
        precision=Precision.fp32,
        trust=settings.trust,
    )
    given = examples.of_text(settings.text, "as given", source.tokenizer, source.device)
    examples.check_length(given, None, attention=False)
    backbone = source.model.backbone
    width = backbone.embedding.weight.shape[1]
    facts = [
        ("checkpoint", source.name),
        ("model", f"{_layers(len(backbone.layers))} of width {width}"),
    ]
    default_folder = Path(settings.output_dir, "inspect", Path(source.name).absolute().name)
    return source.model, given, facts, default_folder


def _layers(count: int) -> str:
    return f"{count} layer{'s'[: count != 1]}"
