"""Settings of `mambalab export` (no torch here: the command line reads this)."""

from dataclasses import dataclass
from enum import Enum

from mambalab.errors import UserError
from mambalab.settings.rules import FOLDER, RUN, option


class To(Enum):
    """Layouts of checkpoints elsewhere."""

    hf = "hf"
    original = "original"


@dataclass
class ExportSettings:
    """`mambalab export`."""

    run: str = option("run folder, or latest", **RUN)
    to: To = option("layout: of transformers' MambaForCausalLM, or of the original Mamba code")
    out: str | None = option("folder to write", **FOLDER)
    overwrite: bool = option("replace an earlier export in that folder")
    output_dir: str = option("folder in which run=latest looks", **FOLDER)
    trust: list[str] = option("modules outside mambalab whose classes the run may use")

    def check_ready(self) -> None:
        """Raise UserError if the folder is missing."""
        if self.out is None:
            raise UserError("export: where to? give a folder, as in out=exported")
