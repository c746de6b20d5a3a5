"""Small runs on a small text, and how to read what they leave behind."""

import json
from pathlib import Path
from typing import Any

from mambalab import config
from mambalab.cli import main
from mambalab.cli.verbs import VERBS

TEXT = "".join(f"Line {n}: the quick brown fox jumps over the lazy dog {n}.\n" for n in range(300))
TINY = [
    "task=text",
    "task.path=text.txt",
    "task.seq_len=32",
    "task.batch_size=4",
    "model.d_model=16",
    "model.n_layer=2",
    "model.d_state=4",
    "trainer.max_steps=12",
    "trainer.max_minutes=null",
    "trainer.eval_every=6",
    "trainer.checkpoint_every=4",
    "trainer.log_every=2",
    "trainer.sample_chars=20",
    "device=cpu",
]


def train(*options: str) -> int:
    """Run `mambalab train` in this process, without MLflow unless asked for."""
    options = (
        tuple(options) if any("tracking" in o for o in options) else (*options, "tracking=jsonl")
    )
    return main.main(["train", *TINY, *options])


def compose(verb: str, overrides: list[str]) -> Any:
    """The settings object of a verb, as the command line makes it."""
    return config.compose(verb, overrides, VERBS[verb].settings_class())


def only_run(folder: Path) -> Path:
    (summary,) = folder.glob("outputs/*/*/*/summary.json")
    return summary.parent


def rows(run_dir: Path) -> list[dict]:
    """metrics.jsonl without what the clock decides."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def one_line(capsys) -> str:
    """The single line of an error."""
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("mambalab: error")]
    assert len(lines) == 1
    return lines[0]
