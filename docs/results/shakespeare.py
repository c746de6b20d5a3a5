"""Blocks on tiny Shakespeare: the main job, and the two sweeps of the older kind."""

from collections.abc import Mapping

from docs.results.old import (
    EQUAL_DEPTH,
    EXPERIMENTS,
    OLDER,
    baseline_option,
    by_seed,
    groups,
    minutes,
    picture,
    plus_minus,
    run,
    sweep_runs,
    table,
)
from mambalab.compare.statistics import Difference, estimate, paired

MAIN_JOB = "shakespeare/main_job.json"
CURVES = EXPERIMENTS / "shakespeare" / "main_job.png"
DROPOUT, RESET = (f"shakespeare/{name}" for name in ("dropout", "reset_A"))
DROPOUT_PICTURE = EXPERIMENTS / DROPOUT / "best_and_last.png"


def mean(values: Mapping[str, float]) -> str:
    """Mean over seeds with its interval."""
    found = estimate(list(values.values()))
    assert found is not None, "a group has a run"
    return plus_minus(found.mean, found.low, found.high)


def signed(difference: Difference | None, digits: int = 3) -> str:
    """A paired difference with its interval."""
    assert difference is not None, "the groups have seeds in common"
    found = difference.estimate
    return (
        f"{'+' if found.mean >= 0 else ''}{plus_minus(found.mean, found.low, found.high, digits)}"
    )


def ssm_effect(column: str = "best", at: tuple[str, ...] = ("0.1", "0.2")) -> Difference:
    """Effect of `ssm_p=0.1` against 0 at equal `p`, averaged over these values of p, by seed."""
    seeds: dict[str, list[float]] = {}
    for p in at:
        with_ssm, without = (
            by_seed(DROPOUT, f"dropout.p={p} dropout.ssm_p={q}", column) for q in ("0.1", "0.0")
        )
        for seed in with_ssm:
            seeds.setdefault(seed, []).append(with_ssm[seed] - without[seed])
    effect = paired({s: sum(v) / len(v) for s, v in seeds.items()}, dict.fromkeys(seeds, 0.0))
    assert effect is not None, "the sweep has seeds"
    return effect


def reset_effect(column: str) -> Difference | None:
    """Dropped entries of A return to their initial value, less dropped to zero."""
    ours, theirs = (by_seed(RESET, f"dropout={n}", column) for n in ("ssm", "ssm_no_reset"))
    return paired(ours, theirs)


def main_job(up: str) -> str:
    """Table and picture of the main job."""
    rows = []
    for entry, name in (
        ("mamba_ssm", "`model=mamba dropout=ssm`"),
        ("transformer_standard", f"{EQUAL_DEPTH}, `dropout=standard`"),
    ):
        found = run(MAIN_JOB, entry)
        steps, seconds = (found.data[k] for k in ("first_step_at_or_below_1.60", "seconds_to_1.60"))
        to = f"{steps:,} steps, {minutes(seconds / 60)}"
        cells = [f"{found.parameters:,}", f"{found.loss:.4f}", to, minutes(found.minutes)]
        rows.append([name, *cells])
    first = run(MAIN_JOB, "mamba_ssm")
    return (
        "```sh\nmambalab train task=shakespeare model=mamba dropout=ssm\n"
        f"mambalab train task=shakespeare model={baseline_option()} dropout=standard\n```\n\n"
        f"{first.device}, {first.precision}, {first.steps:,} steps, seed 1, other work on the "
        "same two "
        f"cores: the minutes are upper bounds. This is {OLDER}. Nats per character on the whole "
        "last "
        f"tenth of the text in windows of 256 characters. Record: `experiments/{MAIN_JOB}`.\n\n"
        + table(["", "parameters", "best `val/loss`", "to 1.60", "whole run"], rows)
        + "\n\n"
        + picture(up, CURVES, "Validation loss of both models on tiny Shakespeare, by step")
    )


def dropout(up: str) -> str:
    """What the sweep of dropout says."""
    rows = [
        [f"`{g}`", *(mean(by_seed(DROPOUT, g, column)) for column in ("best", "last", "rise"))]
        for g in groups(DROPOUT)
    ]
    alone = ("0.0",)
    in_all = sum(float(row["minutes"]) for row in sweep_runs(DROPOUT))
    seeds = len(by_seed(DROPOUT, groups(DROPOUT)[0]))
    return (
        f"{seeds} seeds in each group; the runs add up to {in_all:.0f} minutes of training. "
        f"Record: `experiments/{DROPOUT}/comparison.md`.\n\n"
        + table(["group", "best `val/loss`", "last", "last less best, never negative"], rows)
        + "\n\nLoss with `ssm_p=0.1` less that without. On top of ordinary dropout (mean over p = "
        f"0.1 and 0.2, by seed): best {signed(ssm_effect())}, last {signed(ssm_effect('last'))}: "
        f"nothing is shown. Alone (p = 0): best {signed(ssm_effect(at=alone))}, last "
        f"{signed(ssm_effect('last', alone))}. This is a first look: it cannot show an effect "
        "smaller than these intervals, and in this setting ordinary dropout does not lower the "
        "best loss either.\n\n"
        + picture(up, DROPOUT_PICTURE, "Best and last validation loss of each seed, by dropout")
    )


def reset(up: str) -> str:
    """What the sweep of the reset says."""
    del up
    ours, theirs = (mean(by_seed(RESET, f"dropout={n}")) for n in ("ssm", "ssm_no_reset"))
    return (
        "Dropped entries of `A_log` return to their initial value (`dropout=ssm`) or become zero "
        f"(`dropout=ssm_no_reset`): best `val/loss` {ours} against {theirs}. With the reset less "
        f"without it: best {signed(reset_effect('best'))}, last {signed(reset_effect('last'))}. "
        "Two "
        "endpoints of three seeds were looked at, so this is a hint at most. Record: "
        f"`experiments/{RESET}/comparison.md`."
    )


BLOCKS = {
    "main-job": main_job,
    "dropout": dropout,
    "reset-a": reset,
}
