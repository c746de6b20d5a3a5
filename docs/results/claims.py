"""What the sources and the Mamba paper claim, beside what was measured here, with a verdict."""

from collections.abc import Callable
from dataclasses import dataclass

from docs.results import fallbacks
from docs.results.fallbacks import SSM_DROPOUT
from docs.results.judging import NOT_MEASURED, Contrast, Level, Measured, Test, TurnsUp, judged
from docs.results.old import table
from docs.results.one_study import comparison, shown
from docs.results.studies import study

SMALL_BENCH, JULIA = "small-bench", "the author of SSM dropout (Julia)"
PAPER, NANOGPT = "Mamba paper", "nanoGPT"


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        source: who says it.
        said: what is claimed.
        study: folder of the study that tests it; None if no training does.
        test: how a record of the study decides; None if no figure is claimed.
        older: what an older record, a benchmark or a study of another setting says, shown while
            the study has no record.
    """

    source: str
    said: str
    study: str | None = None
    test: Test | None = None
    older: Callable[[], Measured] | None = None


def measured(claim: Claim) -> Measured:
    """What is known on a claim: of its study, else of what comes nearest, else nothing."""
    of = study(claim.study) if claim.study else None
    if of is not None and of.recorded:
        return judged(comparison(of), claim.test, of)
    if claim.older is not None:
        return claim.older()
    return Measured("-", NOT_MEASURED, shown(of.command) if of else "-")


CLAIMS = [
    Claim(
        SMALL_BENCH,
        "CIFAR-10 in patches: Mamba 85 %, Transformer 84 %",
        "sources/small_bench_cifar10",
        Contrast("model=mamba", "model=transformer_equal_depth"),
        fallbacks.cifar,
    ),
    Claim(
        SMALL_BENCH,
        "tiny Shakespeare: loss 1.463",
        "sources/small_bench_shakespeare",
        Level(1.463),
        fallbacks.shakespeare,
    ),
    Claim(
        SMALL_BENCH,
        "Mamba of d = 512 without dropout over-fits",
        "sources/small_bench_overfitting",
        TurnsUp(),
        fallbacks.turns_up,
    ),
    Claim(
        SMALL_BENCH,
        "at 64 tokens Mamba trains half as fast as the Transformer",
        older=fallbacks.short_sequences,
    ),
    Claim(
        SMALL_BENCH,
        "time of Mamba's step is flat in the length, at equal tokens",
        older=fallbacks.flat,
    ),
    Claim(
        JULIA,
        "validation loss 1.42 with SSM dropout, 1.46 with ordinary dropout alone",
        "sources/julia_dropout",
        SSM_DROPOUT,
        fallbacks.ssm_dropout,
    ),
    Claim(JULIA, "learns retrieval of the Long Range Arena", "retrieval/lra"),
    Claim(
        "published (LSSL, S4)",
        "sequential MNIST: 99.5 %",
        "mnist/sequential",
        Level(0.995),
        fallbacks.sequential,
    ),
    Claim(
        PAPER,
        "selective copying is solved (99.8 %, 4,096 steps; section 4.1)",
        "sources/paper_selective_copying",
        Level(0.998),
        fallbacks.copying,
    ),
    Claim(
        PAPER,
        "induction heads: right to 2^20 steps when trained at 256 (section 4.1)",
        "sources/paper_induction_heads",
        Level(1.0),
        fallbacks.induction,
    ),
    Claim(
        PAPER,
        "generates 5 times as many tokens/s as a Transformer of its size (GPU)",
        older=fallbacks.generation,
    ),
    Claim(PAPER, "time grows linearly with the length", older=fallbacks.linear),
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
