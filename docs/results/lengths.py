"""Blocks on time and memory of a training step against the length of sequences."""

from collections.abc import Callable
from typing import Any

from docs.results.old import EXPERIMENTS, load, picture, table

RECORD = "benchmarks/lengths-cpu-epyc.json"
PICTURE = EXPERIMENTS / "benchmarks" / "lengths-cpu-epyc.png"
CHARACTERS = 1_003_854  # of the training part of tiny Shakespeare
COMMAND = (
    "`mambalab bench train 'lengths=[64,256,1024,4096,16384,65536]' tokens=65536 "
    "d_model=64 n_layer=4`"
)


def rows_of(contender: str) -> dict[int, dict[str, Any]]:
    """The rows of a contender by length."""
    found = {}
    for row in load(RECORD)["rows"]:
        if row["contender"] == contender:
            found[int(row["batch x length"].rpartition(" x ")[2])] = row
    return found


def ratio(contender: str, length: int) -> float:
    """How many times as fast as a contender Mamba trains at a length."""
    return rows_of(contender)[length]["Mamba x"]


def lengths(up: str) -> str:
    """Time and memory of a step and of an epoch by length, and how they grow."""
    found = load(RECORD)
    names = [name for name in found["curves"] if name != "plain stack"]
    sizes = [length for length, _ in found["curves"]["mamba"]]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "tokens/s": lambda row: f"{row['tokens/s']:,.0f}",
        "epoch, s": lambda row: f"{CHARACTERS / row['tokens/s']:,.0f}",
        "memory, MB": lambda row: f"{row['memory MB']:,.0f}" if "memory MB" in row else "-",
    }
    rows = []
    for what, cell in columns.items():
        for name in names:
            here = rows_of(name)
            rows.append([f"{name}, {what}", *(cell(here[n]) if n in here else "-" for n in sizes)])
    options = found["options"]
    grows = "\n".join(f"- {note}" for note in found["notes"] if "grows as" in note)
    return (
        f"{options['n_layer']} layers of {options['d_model']}, {options['tokens']:,} tokens a "
        f"step, {found['machine']}; an epoch has the {CHARACTERS:,} characters of tiny "
        f"Shakespeare's training part. {COMMAND}\n\n"
        + table(["at length", *(f"{n:,}" for n in sizes)], rows)
        + f"\n\n{grows}\n\n"
        + picture(up, PICTURE, "Time of a token and memory of a step, by length")
    )


BLOCKS = {"lengths": lengths}
