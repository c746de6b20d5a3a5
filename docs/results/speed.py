"""Blocks on speed, from the records of `mambalab bench` on two machines."""

from typing import Any

from docs.results.old import EXPERIMENTS, load, picture, table

XEON, EPYC = "xeon", "epyc"
PICTURES = {
    name: EXPERIMENTS / "benchmarks" / f"{name}.png"
    for name in ("scan-cpu-xeon", "generate-cpu-xeon")
}


def record(what: str, machine: str = XEON) -> dict[str, Any]:
    """Read what a benchmark wrote on one of the machines."""
    return load(f"benchmarks/{what}-cpu-{machine}.json")


def _row(what: str, machine: str, **wanted: Any) -> dict[str, Any] | None:
    names = {key.replace("_", " "): value for key, value in wanted.items()}
    rows = record(what, machine)["rows"]
    return next((r for r in rows if all(r.get(k) == v for k, v in names.items())), None)


def _both(values: list[float | None], digits: int = 0) -> str:
    return " / ".join("-" if v is None else f"{v:,.{digits}f}" for v in values)


def machines(up: str) -> str:
    """What the two machines are, and of which commits the figures are."""
    del up
    rows = [
        [
            f"`{what}-cpu-{machine}.json`",
            found["machine"],
            found["versions"]["torch"],
            found["options"].get("git_revision", "not noted")[:10],
        ]
        for what, machine in (
            *((w, XEON) for w in ("scan", "train", "generate", "data", "tracking")),
            *((w, EPYC) for w in ("scan", "train")),
        )
        for found in [record(what, machine)]
    ]
    return table(["record in `experiments/benchmarks`", "machine", "PyTorch", "commit"], rows)


def scan(up: str) -> str:
    """The scan against others."""
    shapes = dict.fromkeys(row["shape"] for row in record("scan")["rows"])

    def column(shape: str, contender: str, key: str, digits: int) -> str:
        rows = [_row("scan", m, shape=shape, contender=contender) or {} for m in (XEON, EPYC)]
        return _both([row.get(key) for row in rows], digits)

    rows = [
        [
            f"({shape.replace('x', ', ')})",
            column(shape, "mambalab", "both ms", 1) + " ms",
            column(shape, "mambapy", "both x", 0),
            column(shape, "C++ yardstick", "both x", 2),
        ]
        for shape in shapes
    ]
    return (
        table(["(B, L, D)", "ours, Xeon / EPYC", "mambapy", "C++"], rows)
        + "\n\n"
        + picture(up, PICTURES["scan-cpu-xeon"], "The scan on two CPU cores, by sequence length")
    )


def training(up: str) -> str:
    """Whole training steps of both models."""
    del up
    shapes = [r["batch x length"] for r in record("train")["rows"] if r["contender"] == "mamba"]
    rows = []
    for shape in shapes:
        found = {
            name: [
                _row("train", m, batch_x_length=shape, contender=name) or {} for m in (XEON, EPYC)
            ]
            for name in ("mamba", "transformer")
        }
        speeds = [_both([r.get("tokens/s") for r in found[name]]) for name in found]
        ratio = _both([r.get("Mamba x") for r in found["transformer"]], 1)
        rows.append([shape, *speeds, ratio])
    peer = next(r for r in record("train")["rows"] if r["contender"] == "mambapy")
    notes = [note for m in (XEON, EPYC) for note in record("train", m)["notes"] if "varies" in note]
    worst = max(row["share %"] for row in record("data")["rows"])
    return (
        table(
            ["batch x length", "Mamba, tokens/s", "Transformer of equal depth, tokens/s", "ratio"],
            rows,
        )
        + f"\n\nXeon / EPYC: {notes[0]} on the Xeon, {notes[1].rpartition(' by ')[2]} on the EPYC. "
        f"mambapy's step at {peer['batch x length']} manages {peer['tokens/s']:,.0f} tokens/s "
        "on the Xeon, "
        f"a {peer['Mamba x']:.0f}th of ours. No task's batches take more than {worst:.1f} % of "
        "a training "
        "step there."
    )


def writing(up: str) -> str:
    """Tokens a second as they are written."""
    contexts = (256, 1024, 4096, 16384)
    rows = []
    for model, batch in (("mamba", 1), ("mamba", 32), ("transformer", 1), ("transformer", 32)):
        found = [_row("generate", XEON, contender=model, batch=batch, context=c) for c in contexts]
        cells = [f"{row['tokens/s']:,.0f}" if row else "not measured" for row in found]
        rows.append([f"{model.capitalize()}, {'one text' if batch == 1 else '32 texts'}", *cells])
    large = []
    for kind in ("fp32", "bf16"):
        ours, theirs = (
            _row("generate", XEON, contender=f"mamba-130m {kind}, {who}")
            for who in ("ours", "theirs")
        )
        assert ours is not None
        assert theirs is not None
        times = ours["tokens/s"] / theirs["tokens/s"]
        large.append(
            f"{ours['tokens/s']:.0f} tokens/s in {kind}, {times:.1f} times as many as "
            "transformers' "
            f"Mamba and {ours['% of bound']:.0f} % of what reading the weights allows"
        )
    return (
        table(["tokens/s behind a context of", *(f"{c:,}" for c in contexts)], rows)
        + "\n\n"
        + picture(up, PICTURES["generate-cpu-xeon"], "Tokens a second and memory, by context")
        + "\n\nAt the size of mamba-130m (random weights, one text) Mamba writes "
        f"{'; '.join(large)}."
    )


def tracking(up: str) -> str:
    """Share of the training thread's time that recording takes."""
    del up
    rows = record("tracking")["rows"]
    worst = max(row["share %"] for row in rows)
    step, processes = rows[0]["step ms"], max(row["processes"] for row in rows)
    return (
        f"At most {worst:.2f} % with steps of {step:.0f} ms and up to {processes} runs at once "
        "(`experiments/benchmarks/tracking-cpu-xeon.json`)."
    )


def times_faster(length: int) -> tuple[float, float]:
    """How many times as fast as the Transformer Mamba trains at a length, least and most."""
    rows = [
        row["Mamba x"]
        for m in (XEON, EPYC)
        for row in record("train", m)["rows"]
        if row["contender"] == "transformer" and row["batch x length"].endswith(f" {length}")
    ]
    return min(rows), max(rows)


BLOCKS = {
    "machines": machines,
    "scan": scan,
    "training-steps": training,
    "writing": writing,
    "tracking": tracking,
}
