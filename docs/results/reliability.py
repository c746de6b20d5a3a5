"""Blocks on reliability: faults, stops, odd inputs, a database and a cluster that fail."""

from typing import Any

from docs.results.old import EXPERIMENTS, load, table

FOLDER = EXPERIMENTS / "reliability"
_MAX_MESSAGE_CHARS = 90


def _record(name: str) -> dict[str, Any] | None:
    return load(f"reliability/{name}.json") if (FOLDER / f"{name}.json").is_file() else None


def _cell(text: str) -> str:
    short = text if len(text) <= _MAX_MESSAGE_CHARS else f"{text[: _MAX_MESSAGE_CHARS - 3]}..."
    return short.replace("|", "\\|").replace("<", "&lt;")


def faults(up: str) -> str:
    """Injected faults by kind: how many promises were kept."""
    del up
    if (found := _record("faults")) is None:
        return "Not measured yet: `make faults` has no record."
    rows = [
        [row["kind"], str(row["tries"]), str(row["kept"]), _cell(row["message"])]
        for row in found["kinds"]
    ]
    broken = [f"- `{one['repeat']}`: {_cell(one['broken'])}" for one in found.get("broken", [])]
    told = (
        f"{found['injections']:,} faults of {len(rows)} kinds, {found['kept']:,} promises kept, "
        f"{found['seconds'] / 60:.0f} minutes on two CPU cores; commit `{found['revision']}`, seed "
        f"{found['seed']}. Record: `experiments/reliability/faults.json`."
    )
    notes = [f"- {line}" for line in found.get("remarks", [])] + broken
    grid = table(["fault", "tries", "kept", "what a person saw, of one try"], rows)
    return "\n\n".join(part for part in (told, "\n".join(notes), grid) if part)


def fuzz(up: str) -> str:
    """Odd inputs by family: tracebacks and hangs."""
    del up
    if (found := _record("fuzz")) is None:
        return "Not measured yet: `make fuzz` has no record."
    rows = [
        [row["inputs"], f"{row['count']:,}", *(str(row[k]) for k in ("tracebacks", "hangs"))]
        for row in found["families"]
    ]
    told = (
        f"{found['inputs']:,} inputs, {found['problems']} problems, {found['seconds'] / 60:.0f} "
        f"minutes on two CPU cores; commit `{found['revision']}`, seed {found['seed']}. Record: "
        "`experiments/reliability/fuzz.json`."
    )
    notes = "\n".join(f"- {line}" for line in found.get("remarks", []))
    grid = table(["inputs", "count", "tracebacks", "hangs over 20 s"], rows)
    return "\n\n".join(part for part in (told, notes, grid) if part)


def stops(up: str) -> str:
    """How long a SIGTERM takes at the worst."""
    del up
    if (found := _record("stops")) is None:
        return "Not measured yet: `python -m tests.faults.stops` has no record."
    rows = [[row["kind"], str(row["tries"]), f"{row['longest']:.1f} s"] for row in found["kinds"]]
    return table(["SIGTERM", "tries", "longest time to the end"], rows)


def postgres(up: str) -> str:
    """Eight runs that write at once to PostgreSQL, which is stopped meanwhile."""
    del up
    if (found := _record("postgres")) is None:
        return "Not measured yet: `python -m tests.postgres` has no record."
    rows = [
        [
            row["store"],
            *(f"{row[key]:,}" for key in ("points", "stored", "given_up", "after_sync")),
            *(str(row["twice"] + row["other"]), f"{row['seconds']:.0f} s"),
        ]
        for row in found["trials"]
    ]
    told = (
        f"PostgreSQL {found['postgresql']}, {found['writers']} runs at once on two CPU cores, the "
        f"database stopped for {found['stop_seconds']:.0f} s and the runs going on for "
        f"{found['go_on_seconds']:.0f} s after that; commit `{found['revision']}`. "
        "Record: `experiments/reliability/postgres.json`."
    )
    head = ["written to", "points", "there at the end", "runs that gave up", "after `sync`"]
    notes = "\n".join(f"- {line}" for line in found.get("remarks", []))
    grid = table([*head, "twice or wrong", "time"], rows)
    return "\n\n".join(part for part in (told, notes, grid) if part)


def _variant(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["kernel"], row["arch"], row["N"]


def _compiled(row: dict[str, Any], earlier: dict[Any, dict[str, Any]]) -> list[str]:
    """Cells of one variant of a kernel; what it was before in brackets."""
    old = earlier.get(_variant(row))
    name = row["kernel"].removesuffix("_kernel").replace("_", " ")
    keys = ("channels", "registers", "spilled bytes", "warps a scheduler", "instructions")
    values = (f"{row[key]} ({old[key]})" if old else str(row[key]) for key in keys)
    return [row["arch"], str(row["N"]), name, *values]


def kernels(up: str) -> str:
    """What the compiler and the emulator say of the Triton kernels, before the last rework, too."""
    del up
    if (found := _record("kernels")) is None:
        return "Not measured yet: `python -m tests.ptx` has no record."
    launches = [[row["what"], str(row["before"]), str(row["after"])] for row in found["launches"]]
    parts = [table(["launches of a layer", "before", "now"], launches)]
    head = ["GPU", "states", "kernel", "channels", "registers", "spilled bytes"]
    head += ["warps a scheduler", "instructions a state element"]
    earlier = {_variant(row): row for row in found["before"]["compiled"]}
    parts.append(table(head, [_compiled(row, earlier) for row in found["compiled"]]))
    for row in found["emulated"]:
        same, tried = row["same bits again"]
        errors = ", ".join(f"{kind} {error:.0e}" for kind, error in row["largest error"].items())
        parts.append(
            f"Emulated for {row['arch']}: {row['scan cases']} scans and {row['conv cases']} "
            f"convolutions, {row['launches']} launches, {len(row['findings'])} findings, "
            f"{len(row['wrong'])} wrong results; the same bits again in {same} of {tried}. Largest "
            f"error beyond a result's own rounding, as a share of its largest value: {errors}."
        )
    before = found["before"]["emulated"]
    parts.append(
        f"Before, {before['arch']}: {before['scan cases']} scans and {before['conv cases']} "
        f"convolutions, with {before['remark']}."
    )
    parts.append(f"triton {found['triton']}. Record: `experiments/reliability/kernels.json`.")
    return "\n\n".join(parts)


def slurm(up: str) -> str:
    """Sweeps and jobs on a SLURM of one node: time over, requeued, cancelled."""
    del up
    if (found := _record("slurm")) is None:
        return "Not measured yet: `python -m tests.slurm` has no record."
    rows = [
        [
            row["trial"],
            row["asked"],
            ", ".join(f"{step:,}" for step in row["steps"]),
            row["status"].lower(),
            f"{row['seconds']:.0f} s",
        ]
        for row in found["trials"]
    ]
    told = (
        f"SLURM {found['slurm']}, submitit {found['submitit']}, torch {found['torch']}, one node "
        f"of {found['cpus']} CPUs; {len(rows)} trials, {found['failed']} failed; commit "
        f"`{found['revision']}`. Record: `experiments/reliability/slurm.json`."
    )
    notes = "\n".join(f"- {line}" for line in found.get("remarks", []))
    grid = table(["trial", "asked of SLURM", "step at each stop", "at the end", "time"], rows)
    logs = [
        "\n".join(
            ["What the second one printed, and what SLURM knew:", "", "```text", *lines, "```"]
        )
        for lines in (row["lines"] for row in found["trials"][1:2])
    ]
    return "\n\n".join(part for part in (told, notes, grid, *logs) if part)


BLOCKS = {
    "faults": faults,
    "fuzz": fuzz,
    "kernels": kernels,
    "postgres": postgres,
    "slurm": slurm,
    "stops": stops,
}
