"""`mambalab inspect`: a page and pictures of what a trained model does with one sequence."""

import logging
from pathlib import Path
from typing import Any

from mambalab.errors import UserError
from mambalab.inspect import examples, page, pictures, trace
from mambalab.records import reader
from mambalab.runs import language_model, load
from mambalab.settings.inspect import InspectSettings
from mambalab.settings.train import Precision
from mambalab.train import runtime

Facts = list[tuple[str, str]]


def run(settings: InspectSettings) -> int:
    """Write page and pictures, print where they are; returns 0.

    Raises:
        UserError: no such run or checkpoint, something that it cannot read, a folder that cannot
            be written.
    """
    runtime.prepare_process()
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    opened = _of_run(settings) if settings.pretrained is None else _of_checkpoint(settings)
    model, found, facts, usual = opened
    subject = found.subject
    output, layers = trace.record(model, found.inputs, found.lengths, settings.layers)
    found.answer(output, subject)
    subject.facts = [*facts, *subject.facts]
    out = usual if settings.out is None else Path(settings.out).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {out}: {error.strerror}; name another with out=") from error
    print(page.write(subject, layers, out / "index.html"))
    for picture in pictures.draw(subject, layers, out):
        print(picture)
    return 0


def _of_run(settings: InspectSettings) -> tuple[Any, examples.Reading, Facts, Path]:
    """Model, what it reads, facts about it, and the usual folder for the page."""
    path = reader.resolve_run(settings.run, Path(settings.output_dir))
    loaded = load.load_run(path, device=settings.device, trust=settings.trust)
    model = loaded.settings.model
    facts = [
        ("run", str(path)),
        ("model", f"{model.name}, {model.n_layer} layers of width {model.d_model}"),
        ("weights", f"step {loaded.step:,}"),
    ]
    return loaded.model, examples.choose(settings, loaded), facts, path / "inspect"


def _of_checkpoint(settings: InspectSettings) -> tuple[Any, examples.Reading, Facts, Path]:
    """As `_of_run`, of a checkpoint in a published layout."""
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
    reading = examples.of_text(settings.text, "as given", source.tokenizer, source.device)
    examples.check_length(reading, None, attention=False)
    backbone = source.model.backbone
    width = backbone.embedding.weight.shape[1]
    facts = [
        ("checkpoint", source.name),
        ("model", f"{len(backbone.layers)} layers of width {width}"),
    ]
    usual = Path(settings.output_dir, "inspect", Path(source.name).absolute().name)
    return source.model, reading, facts, usual
