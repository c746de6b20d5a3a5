"""What the sources and the Mamba paper claim, beside what was measured here, with a verdict."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from docs.results import lengths as against_length
from docs.results import speed
from docs.results.old import load, minutes, percent, run, table
from docs.results.shakespeare import DROPOUT, MAIN_JOB, by_seed, signed, ssm_effect
from docs.results.studies import Study, comparison, group, shown, study, too_often
from mambalab.compare.results import BETTER, TOO_FEW, WITHHELD, Comparison, GroupResult
from mambalab.compare.statistics import estimate, paired
from mambalab.compare.text import interval
from mambalab.compare.verdicts import MIN_SEEDS, failures_decide, verdict

SUPPORTED, NOT_SUPPORTED, NOT_MEASURED = "supported", "not supported", "not measured"
UNDECIDED, OTHER_SETTING, NO_FIGURE = "undecided", "other setting", "no figure claimed"
SMALLER = "supported, but smaller"
SMALL_BENCH, JULIA = "small-bench", "the author of SSM dropout (Julia)"
PAPER, NANOGPT = "Mamba paper", "nanoGPT"


@dataclass(frozen=True)
class Level:
    """A claim that a value is reached: by the mean, undecided if only by the interval.

    Attributes:
        value: as claimed, of the study's metric.
        of: a word of the group's label; None = the best group.
    """

    value: float
    of: str | None = None


@dataclass(frozen=True)
class Contrast:
    """A claim that one group does better than another: one planned paired comparison.

    Attributes:
        better, worse: words of the labels of the two groups.
        by: how large the claimed difference is, in the metric's unit; None = not claimed.
    """

    better: str
    worse: str
    by: float | None = None


@dataclass(frozen=True)
class TurnsUp:
    """A claim that a group over-fits: its validation loss turns up.

    Attributes:
        of: a word of the group's label; None = the best group.
    """

    of: str | None = None


Test = Level | Contrast | TurnsUp


@dataclass(frozen=True)
class Measured:
    """What there is on a claim.

    Attributes:
        text: figures, seeds, time, machine.
        verdict: what they say.
        command: what makes the runs.
    """

    text: str
    verdict: str
    command: str


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        source: who says it.
        said: what is claimed.
        study: folder of the study that tests it; None if no training does.
        test: how a record of the study decides; None if no figure is claimed.
        older: what an older record says, shown while the study has none.
    """

    source: str
    said: str
    study: str | None = None
    test: Test | None = None
    older: Callable[[], Measured] | None = None


def measured(claim: Claim) -> Measured:
    """What is known on a claim: of its study, else of an older record, else nothing."""
    of = study(claim.study) if claim.study else None
    if of is not None and of.recorded:
        return judged(comparison(of), claim.test, of)
    if claim.older is not None:
        return claim.older()
    return Measured("-", NOT_MEASURED, shown(of.command) if of else "-")


def judged(found: Comparison, test: Test | None, of: Study) -> Measured:
    """Judge a claim by the comparison of its study's runs.

    Raises:
        UserError: the comparison lacks a group that decides.
    """
    if isinstance(test, Contrast):
        text, word = _contrast(found, test, of.looks)
    elif isinstance(test, TurnsUp):
        text, word = _turns_up(group(found, test.of))
    else:
        text, word = _level(found, test)
    if not of.source_setting and word in (SUPPORTED, SMALLER, UNDECIDED, NOT_SUPPORTED):
        word = f"{OTHER_SETTING}: {word}"
    devices = {r.summary.device for g in found.groups for r in g.group.records}
    machine = ", ".join(sorted(device for device in devices if device))
    return Measured(f"{text}; {machine}" if machine else text, word, shown(of.command))


def _seeds(result: GroupResult) -> str:
    number = len(result.seeds)
    took = [run.minutes for run in result.runs if run.minutes is not None]
    ends = sorted({f"{value:.1f}" for value in (min(took), max(took))}, key=float) if took else []
    time = f", {' to '.join(ends)} min" if ends else ""
    return f"{number} seed{'' if number == 1 else 's'}{time}"


def _level(found: Comparison, test: Level | None) -> tuple[str, str]:
    chosen = group(found, test.of if test else None)
    label = f"{chosen.label}: " if chosen.label else ""
    text = f"{label}{interval(chosen.best)}, {_seeds(chosen)}"
    if test is None:
        return text, NO_FIGURE
    if len(chosen.seeds) < MIN_SEEDS or chosen.best.low is None or chosen.best.high is None:
        return text, TOO_FEW
    if chosen.failed_seeds:
        return f"{text}; {len(chosen.failed_seeds)} more failed", WITHHELD
    nearest = chosen.best.high if found.metric.maximize else chosen.best.low
    if found.metric.reaches(chosen.best.mean, test.value):
        return text, SUPPORTED
    return text, UNDECIDED if found.metric.reaches(nearest, test.value) else NOT_SUPPORTED


def _turns_up(chosen: GroupResult) -> tuple[str, str]:
    text = f"loss turns up by {interval(chosen.turn)}, {_seeds(chosen)}"
    if len(chosen.seeds) < MIN_SEEDS or chosen.turn is None or chosen.turn.low is None:
        return text, TOO_FEW
    return text, SUPPORTED if chosen.turn.low > 0 else NOT_SUPPORTED


def _contrast(found: Comparison, test: Contrast, looks: int) -> tuple[str, str]:
    ours, theirs = group(found, test.better), group(found, test.worse)
    text = "; ".join(f"{g.label} {interval(g.best)}, {_seeds(g)}" for g in (ours, theirs))
    pair = paired({r.seed: r.best for r in ours.runs}, {r.seed: r.best for r in theirs.runs})
    if pair is None or len(pair.seeds) < MIN_SEEDS:
        return text, TOO_FEW
    text += f"; difference {interval(pair.estimate, sign='+')}"
    planned = replace(pair, p_holm=pair.p)  # one comparison, chosen beforehand
    word = verdict(planned, found.metric, withheld=False)
    if failures_decide(word, ours, theirs):
        return f"{text}; failed runs decide", WITHHELD
    if word != BETTER:
        return text, NOT_SUPPORTED
    ends = pair.estimate.low, pair.estimate.high
    if test.by is not None and all(end is not None and abs(end) < test.by for end in ends):
        text += f" (the claimed {test.by:g} is outside its interval)"
        word = SMALLER
    else:
        word = SUPPORTED
    if told := too_often(pair.p, looks):
        return f"{text}; {told}", UNDECIDED
    return text, word


SSM_DROPOUT = Contrast("dropout.ssm_p=0.1", "dropout.ssm_p=0.0", by=0.04)


# -- older records -------------------------------------------------------------------------------

ONE_RUN = "one run, older setting"


def _pair(folder: str, other: str, remark: str) -> Measured:
    """Mamba's older record and that of another run, by their names."""
    ours, theirs = (run(f"{folder}/results.json", name) for name in ("mamba_cpu", other))
    text = (
        f"Mamba {percent(ours.accuracy)}, {minutes(ours.minutes)}; Transformer of equal depth "
        f"{percent(theirs.accuracy)}, {minutes(theirs.minutes)}, {remark}; seed 1, {ours.device}"
    )
    command = f"mambalab train -m experiment={folder}/cpu model=mamba,transformer_equal_depth"
    return Measured(f"{text}; today's preset makes other models", ONE_RUN, f"`{command}`")


def cifar() -> Measured:
    """CIFAR-10 for ten minutes."""
    return _pair(
        "cifar10",
        "transformer_cpu_lr1e-3",
        "at a third of Mamba's rate, slowed down by other work beside it",
    )


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


def _steps() -> dict[int, float]:
    return dict(speed.record(f"train-{speed.EPYC}")["curves"]["mamba"])


def flat() -> Measured:
    """Time of a training step for a token, by length."""
    if against_length.recorded():
        grows = next(n for n in load(against_length.RECORD)["notes"] if n.startswith("mamba: "))
        exponent = float(re.findall(r"L\^(\d+\.\d+)", grows)[0])
        word = SUPPORTED if abs(exponent - 1) < 0.1 else NOT_SUPPORTED
        return Measured(grows, f"{OTHER_SETTING}: {word}", against_length.COMMAND)
    times = _steps()
    spread = 100 * (max(times.values()) / min(times.values()) - 1)
    text = (
        f"time for a token varies by {spread:.0f} % from {min(times):,} to {max(times):,} tokens, "
        "two CPU cores, one benchmark; called flat below 20 %"
    )
    word = SUPPORTED if spread < 20 else NOT_SUPPORTED
    return Measured(text, f"{OTHER_SETTING}: {word}", "`mambalab bench train`")


def short_sequences() -> Measured:
    """Speed at the shortest length that was measured."""
    if against_length.recorded():
        names = ("transformer", "transformer_equal_depth")
        ratios = [against_length.ratio(name, 64) for name in names]
        told = ", ".join(
            f"{r:.2f} times as fast as {n}" for r, n in zip(ratios, names, strict=True)
        )
        word = SUPPORTED if max(ratios) < 1 else NOT_SUPPORTED
        return Measured(f"at 64: {told}", f"{OTHER_SETTING}: {word}", against_length.COMMAND)
    shortest = min(_steps())
    told = "; ".join(f"{r:.2f} times {name}'s" for name, r in speed.times_faster(shortest).items())
    text = f"64 tokens: -; at {shortest} tokens Mamba's speed is {told}"
    return Measured(text, NOT_MEASURED, "`mambalab bench train`")


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
        f"{min(ratios):.1f} to {max(ratios):.0f} times as many tokens/s as the Transformer of its "
        "size, by context and batch, a model of 6 layers on two CPU cores"
    )
    return Measured(text, OTHER_SETTING, "`mambalab bench generate`")


CLAIMS = [
    Claim(
        SMALL_BENCH,
        "CIFAR-10 in patches: Mamba 85 %, Transformer 84 %",
        "sources/small_bench_cifar10",
        Contrast("model=mamba", "model=transformer_equal_depth"),
        cifar,
    ),
    Claim(
        SMALL_BENCH,
        "tiny Shakespeare: loss 1.463",
        "sources/small_bench_shakespeare",
        Level(1.463),
        shakespeare,
    ),
    Claim(
        SMALL_BENCH,
        "Mamba of d = 512 without dropout over-fits",
        "sources/small_bench_overfitting",
        TurnsUp(),
        turns_up,
    ),
    Claim(
        SMALL_BENCH,
        "at 64 tokens Mamba trains half as fast as the Transformer",
        older=short_sequences,
    ),
    Claim(SMALL_BENCH, "time of Mamba's step is flat in the length, at equal tokens", older=flat),
    Claim(
        JULIA,
        "validation loss 1.42 with SSM dropout, 1.46 with ordinary dropout alone",
        "sources/julia_dropout",
        SSM_DROPOUT,
        ssm_dropout,
    ),
    Claim(JULIA, "learns retrieval of the Long Range Arena", "retrieval/lra"),
    Claim("published", "sequential MNIST: 99.5 %", "mnist/sequential", Level(0.995)),
    Claim(
        PAPER,
        "selective copying is solved (99.8 %, 4,096 steps; section 4.1)",
        "sources/paper_selective_copying",
        Level(0.998),
        copying,
    ),
    Claim(
        PAPER,
        "induction heads: right to 2^20 steps when trained at 256 (section 4.1)",
        "sources/paper_induction_heads",
        Level(1.0),
        induction,
    ),
    Claim(
        PAPER,
        "generates 5 times as many tokens/s as a Transformer of its size (GPU)",
        older=generation,
    ),
    Claim(PAPER, "time grows linearly with the length", older=flat),
    Claim(
        NANOGPT, "tiny Shakespeare on a CPU in 3 minutes: 1.88", "sources/nanogpt_cpu", Level(1.88)
    ),
    Claim(NANOGPT, "tiny Shakespeare on a GPU: 1.4697", "sources/nanogpt_gpu", Level(1.4697)),
]


def claims(up: str) -> str:
    """The table of all claims."""
    del up
    rows = []
    for claim in CLAIMS:
        found = measured(claim)
        text = found.text.replace("|", "\\|")
        rows.append([claim.source, claim.said, text, f"**{found.verdict}**", found.command])
    return table(["source", "claim", "measured here", "verdict", "command"], rows)


BLOCKS = {"claims": claims}
