"""What is shown beside a claim while nothing was run in its own setting.

Older records of one run, studies of another setting, benchmarks.
"""

import re
from dataclasses import replace

from docs.results import lengths as against_length
from docs.results import speed
from docs.results.judging import (
    NOT_MEASURED,
    NOT_SUPPORTED,
    OTHER_SETTING,
    SUPPORTED,
    Contrast,
    Measured,
    judged,
    machines,
    seeds_and_time,
)
from docs.results.old import load, minutes, percent, run, value_of
from docs.results.one_study import comparison, shown
from docs.results.shakespeare import DROPOUT, MAIN_JOB, by_seed, signed, ssm_effect
from docs.results.studies import study
from mambalab.compare.statistics import estimate
from mambalab.compare.text import interval

ONE_RUN = "one run, older setting"
SSM_DROPOUT = Contrast("dropout.ssm_p=0.1", "dropout.ssm_p=0.0", by=0.04)


def _pair(folder: str, other: str, remark: str) -> Measured:
    """Mamba's older record and that of another run, by their names."""
    ours, theirs = (run(f"{folder}/results.json", name) for name in ("mamba_cpu", other))
    text = (
        f"Mamba {percent(ours.accuracy)}, {minutes(ours.minutes)}; Transformer of equal depth "
        f"{percent(theirs.accuracy)}, {minutes(theirs.minutes)}, {remark}; seed 1, {ours.device}"
    )
    command = f"mambalab train -m experiment={folder}/cpu model=mamba,transformer_equal_depth"
    return Measured(f"{text}; today's preset makes other models", ONE_RUN, f"`{command}`")


def _beside(folder: str, setting: str) -> Measured:
    """A study of another setting, shown beside a claim that it does not test."""
    of = study(folder)
    found = comparison(of)
    metric = found.metric.name
    text = "; ".join(
        f"{g.label or 'model=mamba'} "
        + (f"test {value_of(g.test, metric)}" if g.test else value_of(g.best, metric))
        + f", {seeds_and_time(g)}"
        for g in found.groups
    )
    return Measured(f"{setting}: {text}; {machines(found)}", OTHER_SETTING, shown(of.command))


def sequential() -> Measured:
    """MNIST pixel by pixel, three rounds through the images."""
    of = study("mnist/models_784")
    if of.recorded:
        return _beside(of.folder, "almost three rounds through the images")
    return Measured("-", NOT_MEASURED, shown(study("mnist/sequential").command))


def cifar() -> Measured:
    """CIFAR-10 for half an hour."""
    return _beside("cifar10/models_30", "the steps of half an hour on two quiet cores")


def copying() -> Measured:
    """Selective copying at 256 steps."""
    remark = "one head, Mamba's rate, ended by the clock: no measure of what attention can"
    found = _pair("selective_copying", "transformer_cpu", remark)
    return replace(found, text=f"256 steps: {found.text}")


def shakespeare() -> Measured:
    """The main job."""
    found = run(MAIN_JOB, "mamba_ssm")
    text = f"{found.loss:.3f}, {minutes(found.minutes)}, seed 1, {found.device}"
    return Measured(text, ONE_RUN, "`mambalab train task=shakespeare model=mamba dropout=ssm`")


def turns_up() -> Measured:
    """Over-fitting of a small model on a tenth of the text."""
    rise = estimate(list(by_seed(DROPOUT, "dropout.p=0.0 dropout.ssm_p=0.0", "rise").values()))
    text = f"d = 128 on a tenth of the text: loss rises by {interval(rise)} after its best, 3 seeds"
    return Measured(text, OTHER_SETTING, "`mambalab train -m experiment=shakespeare/dropout`")


def ssm_dropout() -> Measured:
    """SSM dropout on top of ordinary dropout, in a setting of our own."""
    of = study("shakespeare/ssm_dropout")
    found = judged(comparison(of), SSM_DROPOUT, of)
    first = (
        f"a tenth of the text, 3 seeds, an older record: {signed(ssm_effect())}, nothing is shown"
    )
    return replace(found, text=f"a quarter of tiny Shakespeare: {found.text}; {first}")


def induction() -> Measured:
    """Induction heads, tested beyond the length of training."""
    found = run("induction_heads/results.json", "mamba_cpu")
    longest = max(int(k.rpartition("/")[2]) for k in found.test if "accuracy_at" in k)
    text = (
        f"{percent(found.accuracy)} at every length to {longest:,} (dt_min 1e-4, the paper's is "
        f"1e-3), {minutes(found.minutes)}"
    )
    return Measured(
        f"{text}, seed 1, {found.device}",
        ONE_RUN,
        "`mambalab train experiment=induction_heads/cpu`",
    )


def flat() -> Measured:
    """Whether the time of a training step for a token is the same at all lengths."""
    rows = against_length.rows_of("mamba")
    speeds = {length: row["tokens/s"] for length, row in rows.items()}
    slowest, fastest = min(speeds, key=speeds.__getitem__), max(speeds, key=speeds.__getitem__)
    spread = 100 * (speeds[fastest] / speeds[slowest] - 1)
    text = (
        f"time for a token varies by {spread:.0f} % from {min(speeds):,} to {max(speeds):,} "
        f"tokens, most at {slowest:,}, least at {fastest:,}; called flat below 20 %"
    )
    word = SUPPORTED if spread < 20 else NOT_SUPPORTED
    return Measured(text, f"{OTHER_SETTING}: {word}", against_length.COMMAND)


def linear() -> Measured:
    """How the time of a sequence grows with its length."""
    found: dict[str, list[str]] = {}
    for note in load(against_length.RECORD)["notes"]:
        if "sequence grows" in note:
            found[note.partition(":")[0]] = re.findall(r"L\^(\d+\.\d+)", note)
    word = SUPPORTED if abs(float(found["mamba"][0]) - 1) < 0.1 else NOT_SUPPORTED
    told = ", ".join(f"{name} {whole} ({end})" for name, (whole, end) in found.items())
    text = (
        f"exponents of a training step's time over all lengths (the longest two): {told}; "
        "called linear from 0.9 to 1.1"
    )
    return Measured(text, f"{OTHER_SETTING}: {word}", against_length.COMMAND)


def short_sequences() -> Measured:
    """Speed at 64 tokens, beside both Transformers."""
    names = ("transformer", "transformer_equal_depth")
    ratios = [against_length.ratio(name, 64) for name in names]
    told = ", ".join(f"{r:.2f} times as fast as {n}" for r, n in zip(ratios, names, strict=True))
    word = SUPPORTED if max(ratios) < 1 else NOT_SUPPORTED
    return Measured(f"at 64: {told}", f"{OTHER_SETTING}: {word}", against_length.COMMAND)


def generation() -> Measured:
    """Tokens a second as they are written, both models."""
    rows = speed.record(f"generate-{speed.EPYC}")["rows"]
    speeds = {(r["contender"], r["batch"], r["context"]): r["tokens/s"] for r in rows}
    ratios = [
        value / speeds["transformer", batch, context]
        for (name, batch, context), value in speeds.items()
        if name == "mamba" and ("transformer", batch, context) in speeds
    ]
    text = (
        f"{min(ratios):.1f} to {max(ratios):.0f} times as many tokens/s as `transformer` of its "
        "size, by context and batch, a model of 6 layers on two CPU cores"
    )
    return Measured(text, OTHER_SETTING, "`mambalab bench generate`")
