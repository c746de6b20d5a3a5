"""Blocks on images, probes and retrieval: single runs of the older kind."""

from docs.results.old import (
    EQUAL_DEPTH,
    EXPERIMENTS,
    minutes,
    percent,
    picture,
    run,
    table,
)

INDUCTION = EXPERIMENTS / "induction_heads" / "mamba_cpu.png"
# Experiment, remark, entry of Mamba, entry of the Transformer; a run of a fixed time shows none.
TASKS = [
    ("mnist/cpu_4", "4 pixels a step, 20 minutes each", "mamba_cpu_4", "transformer_cpu_4", False),
    ("cifar10/cpu", "10 minutes each", "mamba_cpu", "transformer_cpu", False),
    ("cifar10/cpu", "the same, `dropout=ssm`", "mamba_ssm_cpu", None, False),
    ("cifar10/cpu", "the same, `optim.lr=1e-3`", None, "transformer_cpu_lr1e-3", False),
    ("digits/cpu", "360 test images", "mamba_cpu", "transformer_cpu", True),
    ("induction_heads/cpu", "trained at 256 steps", "mamba_cpu", None, True),
    ("selective_copying/cpu", "256 steps", "mamba_cpu", "transformer_cpu", True),
    ("retrieval/cpu", "200 steps, a made corpus", "mamba_cpu", None, True),
]


def _cell(name: str, entry: str | None, timed: bool) -> str:
    if entry is None:
        return "not measured"
    found = run(f"{name.split('/')[0]}/results.json", entry)
    time = f", {minutes(found.minutes)}" if timed else ""
    return f"{percent(found.accuracy)}{time}"


def _parameters(name: str, *entries: str | None) -> str:
    runs = [run(f"{name.split('/')[0]}/results.json", e) for e in entries if e]
    return f"{runs[0].parameters:,}"


def tasks(up: str) -> str:
    """The table of single runs."""
    del up
    rows = [
        [
            f"`{name}`, {remark}",
            _parameters(name, *entries),
            *(_cell(name, e, timed) for e in entries),
        ]
        for name, remark, *entries, timed in TASKS
    ]
    gain = percent(run("cifar10/results.json", "transformer_cpu_lr1e-3").accuracy)
    first = percent(run("cifar10/results.json", "transformer_cpu").accuracy)
    text = (
        f"Test split, {run('cifar10/results.json', 'mamba_cpu').device}, bf16, seed 1, **one run "
        "each**. "
        "Both models have the same width, depth and learning rate. The rate was chosen for "
        "Mamba, by a sweep that is not kept, so "
        f"the Transformer's figures are not its best: a third of the rate takes it from {first} to "
        f"{gain} on CIFAR-10. CIFAR-10 is read from JPEG copies of the images. The clock "
        "ended the runs of CIFAR-10, of 4 pixels a step, and the Transformer's of selective "
        "copying (which has one head), some with other work beside them: they cannot be repeated "
        "exactly. The presets have changed since; the values are those of their time. Differences "
        "of a percent between single runs say nothing."
    )
    return f"{text}\n\n{table(['experiment', 'parameters', 'Mamba', EQUAL_DEPTH], rows)}"


def induction(up: str) -> str:
    """Accuracy of induction heads by length."""
    test = run("induction_heads/results.json", "mamba_cpu").test
    at = {int(k.rpartition("/")[2]): v for k, v in test.items() if "accuracy_at" in k}
    worst = min(at.values())
    return (
        f"{picture(up, INDUCTION, 'Accuracy of Mamba on induction heads against the length')}\n\n"
        f"Induction heads: trained at 256 steps, {percent(worst)} right at the worst of the "
        "lengths "
        f"from {min(at):,} to {max(at):,}."
    )


def classes(up: str) -> str:
    """Which classes of CIFAR-10 are easy."""
    del up
    test = run("cifar10/results.json", "mamba_cpu").test
    found = {k.rpartition("/")[2]: v for k, v in test.items() if "accuracy_of" in k}
    best, worst = max(found, key=found.__getitem__), min(found, key=found.__getitem__)
    return (
        f"On CIFAR-10 (`cifar10/cpu`, Mamba) {best} is recognised best, {percent(found[best])}, "
        "and "
        f"{worst} worst, {percent(found[worst])}."
    )


def controls(up: str) -> str:
    """What the made corpus for retrieval gives without the order of letters."""
    del up
    one, letters = (
        run("retrieval/results.json", f"control_{name}")
        for name in ("one_document", "letters_sorted")
    )
    return (
        "With one document alone, or the letters sorted, the same model gets "
        f"{percent(one.accuracy)} "
        f"and {percent(letters.accuracy)} (the script that made these two is not kept: they "
        "cannot be "
        "repeated from the record)."
    )


BLOCKS = {
    "tasks": tasks,
    "induction": induction,
    "cifar10-classes": classes,
    "retrieval-controls": controls,
}
