"""`mambalab export`: write a run's model as a checkpoint that other programs load."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mambalab.errors import UserError
from mambalab.settings.rules import CHECKPOINT, FOLDER, RUN, option
from mambalab.utils import console


class To(Enum):
    """Layouts of checkpoints elsewhere."""

    hf = "hf"
    original = "original"


@dataclass
class ExportSettings:
    """`mambalab export`."""

    run: str = option("run folder, or latest", **RUN)
    checkpoint: str = option("weights of the run: best, last or step_N", **CHECKPOINT)
    to: To = option("layout: of transformers' MambaForCausalLM, or of the original Mamba code")
    out: str | None = option("folder to write", **FOLDER)
    overwrite: bool = option("replace an earlier export in that folder")
    output_dir: str = option("folder in which run=latest looks", **FOLDER)
    trust: list[str] = option("modules outside mambalab whose classes the run may use")

    def check_ready(self) -> None:
        """Raise UserError if the folder is missing."""
        if self.out is None:
            raise UserError("export: where to? give a folder, as in out=exported")


def run(settings: ExportSettings) -> int:
    """Write the folder and say so. Returns 0.

    Raises:
        UserError: no such run, a model that the layout cannot hold, a folder in use.
    """
    from mambalab.config import to_plain
    from mambalab.models.heads import count_parameters
    from mambalab.pretrained import export, model_card
    from mambalab.pretrained.layout import Layout
    from mambalab.records import reader
    from mambalab.runs import load
    from mambalab.tokenization.tokenizer import VOCABULARY, load_from_run

    assert settings.out is not None, "checked before"
    out, layout = Path(settings.out).expanduser(), Layout(settings.to.value)
    path = reader.resolve_run(settings.run, Path(settings.output_dir))
    export.check_target(out, settings.overwrite)
    loaded = load.load_run(path, device="cpu", trust=settings.trust, which=settings.checkpoint)
    if why := export.obstacle(loaded.model, loaded.settings.model, layout):
        raise UserError(f"{path} cannot be exported: its model {why}")
    if (tokenizer := load_from_run(path)) is None:
        name = loaded.settings.task.name
        raise UserError(
            f"{path} cannot be exported: a checkpoint of that kind writes texts, and task {name} "
            f"has none (no {VOCABULARY})"
        )
    parameters = count_parameters(loaded.model)
    card = model_card.text(
        to_plain(loaded.settings),
        loaded.summary.to_json(),
        step=loaded.step,
        parameters=parameters,
        layout=layout,
        tokenizer=tokenizer,
    )
    model = loaded.settings.model
    export.write(
        out,
        loaded.model,
        model,
        layout=layout,
        tokenizer=tokenizer,
        card=card,
        overwrite=settings.overwrite,
    )
    console.result(f"{out}: {path} at {loaded.weights()}, {parameters:,} parameters")
    return 0
