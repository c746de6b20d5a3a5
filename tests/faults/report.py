"""The table of a session and its record."""

import json
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol


class Outcome(Protocol):
    """What a line is made of; see `server.Outcome`."""

    @property
    def kind(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def broken(self) -> str | None: ...
    @property
    def message(self) -> str: ...
    @property
    def seconds(self) -> float: ...


def broken_line(outcome: Outcome) -> str:
    """One line about a broken promise, with the command that repeats it."""
    return f"BROKEN {outcome.kind}: {outcome.broken}\n       {repeat(outcome)}"


def repeat(outcome: Outcome) -> str:
    """The command that repeats a try."""
    return f"python -m tests.faults --kind '{outcome.kind}' --seed {outcome.seed}"


def rows(outcomes: Sequence[Outcome]) -> list[dict]:
    """One row for each kind."""
    found = []
    for name in dict.fromkeys(o.kind for o in outcomes):
        tries = [o for o in outcomes if o.kind == name]
        said = Counter(_general(o.message) for o in tries if o.message)
        found.append(
            {
                "kind": name,
                "tries": len(tries),
                "kept": sum(o.broken is None for o in tries),
                "message": said.most_common(1)[0][0] if said else "",
                "seconds": round(sum(o.seconds for o in tries), 1),
            }
        )
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """The table in Markdown."""
    lines = ["| fault | tries | kept | message | seconds |", "|---|--:|--:|---|--:|"]
    for row in rows(outcomes):
        message = row["message"].replace("|", "\\|")
        if len(message) > 90:
            message = message[:87] + "..."
        lines.append(
            f"| {row['kind']} | {row['tries']} | {row['kept']} | {message} | {row['seconds']} |"
        )
    return "\n".join(lines)


def write(
    path: Path, outcomes: Sequence[Outcome], *, seed: int, seconds: float, folder: Path
) -> None:
    """Write the record as JSON, in which paths begin below the session's folder."""
    record = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "injections": len(outcomes),
        "kept": sum(o.broken is None for o in outcomes),
        "python": platform.python_version(),
        "revision": revision(),
        "kinds": rows(outcomes),
        "broken": [{**asdict(o), "repeat": repeat(o)} for o in outcomes if o.broken],  # type: ignore[call-overload]
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    path.write_text(text.replace(f"{folder}/", "") + "\n")


def _general(message: str) -> str:
    """A message without the numbers and paths in which tries differ."""
    words = []
    for word in message.removeprefix("mambalab: error: ").split():
        words.append("PATH" if "/" in word and len(word) > 20 else word)
    return " ".join(words)


def revision() -> str | None:
    """Commit of the code that is tested."""
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() or None
