"""Blocks on speed, from the records of `mambalab bench`."""

from typing import Any

from docs.results.old import EXPERIMENTS, load, picture, table

EPYC, XEON = "cpu-epyc", "cpu-xeon"
SCANS = {  # float32 first: its record has the picture
    f"{kind}, {threads}": f"scan-{EPYC}{ending}"
    for kind, threads, ending in (
        ("float32", "two threads", ""),
        ("float32", "one thread", "-1-thread"),
        ("bfloat16", "two threads", "-bf16"),
        ("bfloat16", "one thread", "-bf16-1-thread"),
    )
}
RECORDS = [*SCANS.values(), f"train-{EPYC}", f"generate-{EPYC}", f"data-{XEON}", f"tracking-{XEON}"]
PICTURES = {
    name: EXPERIMENTS / "benchmarks" / f"{name}.png"
    for name in (f"scan-{EPYC}", f"train-{EPYC}", f"generate-{EPYC}")
}


def record(name: str) -> dict[str, Any]:
    """Read what a benchmark wrote, such as `train-cpu-epyc`."""
    return load(f"benchmarks/{name}.json")


def _row(name: str, **wanted: Any) -> dict[str, Any]:
    names = {key.replace("_", " "): value for key, value in wanted.items()}
    rows = record(name)["rows"]
    return next((r for r in rows if all(r.get(k) == v for k, v in names.items())), {})


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def machines(up: str) -> str:
    """What the machines are, and of which commits the figures are."""
    del up
    rows = [
        [
            f"`{name}.json`",
            found["machine"],
            found["versions"]["torch"],
            found["options"].get("git_revision", "not noted")[:10],
        ]
        for name in RECORDS
        for found in [record(name)]
    ]
    return table(["record in `experiments/benchmarks`", "machine", "PyTorch", "commit"], rows)


def scan(up: str) -> str:
    """The scan against others."""
    rows = []
    for title, name in SCANS.items():
        for shape in dict.fromkeys(row["shape"] for row in record(name)["rows"]):
            ours = _row(name, shape=shape, contender="mambalab")
            cells = [
                _number(_row(name, shape=shape, contender=who).get(key), digits)
                for who, key, digits in (
                    ("mambapy", "both x", 0),
                    ("C++ yardstick", "ours: forward x", 2),
                    ("C++ yardstick", "both x", 2),
                )
            ]
            forward, both = (_number(ours[key], 2) for key in ("forward ms", "both ms"))
            rows.append([title, f"({shape.replace('x', ', ')})", f"{forward}, {both} ms", *cells])
    names = [
        "type, threads", "(B, L, D)", "ours: forward, both", "mambapy, both", "C++, forward",
        "C++, both",
    ]  # fmt: skip
    shown = picture(up, PICTURES[f"scan-{EPYC}"], "The scan on two CPU cores, by sequence length")
    return f"{table(names, rows)}\n\n{shown}"


def training(up: str) -> str:
    """Whole training steps of all models."""
    name = f"train-{EPYC}"
    found = record(name)
    shapes = [r["batch x length"] for r in found["rows"] if r["contender"] == "mamba"]
    models = ("mamba", "transformer", "transformer_equal_depth", "hybrid")
    rows = []
    for shape in shapes:
        of = [_row(name, batch_x_length=shape, contender=model) for model in models]
        speeds = [_number(row.get("tokens/s")) for row in of]
        ratios = [_number(row.get("Mamba x"), 2) for row in of[1:3]]
        rows.append([shape, *speeds, *ratios])
    names = ["batch x length", *(f"`{model}`" for model in models)]
    names += ["Mamba to `transformer`", "to `transformer_equal_depth`"]
    varies = next(note for note in found["notes"] if "varies" in note)
    peer = next((r for r in found["rows"] if r["contender"] == "mambapy"), None)
    told = f"{varies}."
    if peer is not None:
        told += (
            f" mambapy's step at {peer['batch x length']} manages {peer['tokens/s']:,.0f} "
            f"tokens/s, a {peer['Mamba x']:.0f}th of ours."
        )
    worst = max(row["share %"] for row in record(f"data-{XEON}")["rows"])
    told += f" No task's batches took more than {worst:.1f} % of a training step (on the Xeon)."
    shown = picture(up, PICTURES[name], "Training steps on two CPU cores, by sequence length")
    return f"{table(names, rows)}\n\n{told}\n\n{shown}"


def writing(up: str) -> str:
    """Tokens a second as they are written."""
    name = f"generate-{EPYC}"
    contexts = [r["context"] for r in record(name)["rows"] if r["contender"] == "mamba"]
    contexts = sorted(set(contexts))
    rows = []
    for model, batch in (("mamba", 1), ("mamba", 32), ("transformer", 1), ("transformer", 32)):
        found = [_row(name, contender=model, batch=batch, context=c) for c in contexts]
        speeds = [f"{row['tokens/s']:,.0f}" if row else "not measured" for row in found]
        title = f"`{model}`, {'one text' if batch == 1 else '32 texts'}"
        rows.append([f"{title}: tokens/s", *speeds])
        if batch == 1:
            shares = [f"{_number(row.get('% of bound'))} %" for row in found]
            rows.append([f"{title}: share of what memory allows", *shares])
    large = []
    for kind in ("fp32", "bf16"):
        ours, theirs = (
            _row(name, contender=f"mamba-130m {kind}, {who}") for who in ("ours", "theirs")
        )
        if ours and theirs:
            times = ours["tokens/s"] / theirs["tokens/s"]
            large.append(
                f"{ours['tokens/s']:.0f} tokens/s in {kind}, {times:.1f} times as many as "
                f"transformers' Mamba and {ours['% of bound']:.0f} % of what reading the weights "
                "allows"
            )
    shown = picture(up, PICTURES[name], "Tokens a second and memory, by context")
    told = (
        "At the size of mamba-130m (random weights, one text) Mamba writes " + "; ".join(large)
        if large
        else "mamba-130m beside transformers: not measured"
    )
    titles = ["behind a context of", *(f"{c:,}" for c in contexts)]
    return f"{table(titles, rows)}\n\n{shown}\n\n{told}."


def tracking(up: str) -> str:
    """Share of the training thread's time that recording takes."""
    del up
    name = f"tracking-{XEON}"
    rows = record(name)["rows"]
    worst = max(row["share %"] for row in rows)
    step, processes = rows[0]["step ms"], max(row["processes"] for row in rows)
    return (
        f"At most {worst:.2f} % with steps of {step:.0f} ms and up to {processes} runs at once "
        f"(`experiments/benchmarks/{name}.json`)."
    )


BLOCKS = {
    "machines": machines,
    "scan": scan,
    "training-steps": training,
    "writing": writing,
    "tracking": tracking,
}
