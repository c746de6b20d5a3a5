"""`mambalab inspect`: a page and pictures of what a trained model does with one sequence."""

import logging
from pathlib import Path

from mambalab.commands import assemble, subjects
from mambalab.commands.settings_inspect import InspectSettings
from mambalab.errors import UserError
from mambalab.inspect import page, pictures, trace
from mambalab.report import collect
from mambalab.train import runtime


def run(settings: InspectSettings) -> int:
    """Write page and pictures, print where they are; returns 0.

    Raises:
        UserError: no such run, something that it cannot read, a folder that cannot be written.
    """
    runtime.prepare_process()
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    path = collect.resolve_run(settings.run, Path(settings.output_dir))
    loaded = assemble.load_run(path, device=settings.device, trust=settings.trust)
    found = subjects.choose(settings, loaded)
    subject = found.subject
    output, layers = trace.record(loaded.model, found.inputs, found.lengths, settings.layers)
    found.answer(output, subject)
    model = loaded.settings.model
    subject.facts = [
        ("run", str(path)),
        ("model", f"{model.name}, {model.n_layer} layers of width {model.d_model}"),
        ("weights", f"step {loaded.step:,}"),
        *subject.facts,
    ]
    out = path / "inspect" if settings.out is None else Path(settings.out).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {out}: {error.strerror}; name another with out=") from error
    print(page.write(subject, layers, out / "index.html"))
    for picture in pictures.draw(subject, layers, out):
        print(picture)
    return 0
